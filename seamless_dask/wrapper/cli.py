"""The command line of ``seamless-dask-wrapper``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..command.dask_loading import DaskUnusable, load_dask
from ..command.output import checked_output
from . import logs, signals
from .exit_codes import MEANINGS, ExitCode

if TYPE_CHECKING:
    from .site_check import Plan
    from .supervisor import Supervisor

DEFAULT_HOST = "127.0.0.1"
#: Time for the interpreter to end by itself, in seconds.
EXIT_SECONDS = 0.2

DESCRIPTION = """\
Start a Dask cluster, watch it, and end it.

The wrapper waits 20 seconds for the status file, a JSON object with the status
"starting" and the "parameters" of the cluster. It starts the cluster and writes the
status "running" with "port" (scheduler) and "dashboard_port", or the status "failed"
with an "error". It ends the cluster after SIGINT, SIGTERM or SIGHUP, or when there was
no work for the inactivity timeout, and then deletes the status file. A second signal
ends it by force.

With --check or --dry-run nothing is started. --cluster names a cluster of
~/.seamless/clusters.yaml, --queue one of its queues:
  seamless-dask-wrapper --check --cluster bigcluster --queue short
shows the parameters, the job script, and everything that would go wrong on this machine;
--dry-run in its place prints the job script alone.
"""


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(
        textwrap.fill(f"{int(code):>3}  {meaning}", width=80, subsequent_indent=" " * 5)
        for code, meaning in MEANINGS.items()
    )
    parser = argparse.ArgumentParser(
        prog="seamless-dask-wrapper",
        description=DESCRIPTION,
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "cluster_string",
        nargs="?",
        metavar="CLUSTER_STRING",
        help="cluster class as MODULE::SYMBOL, such as distributed::LocalCluster or "
        "dask_jobqueue::SLURMCluster; required without --cluster",
    )
    parser.add_argument(
        "--port-range",
        nargs=2,
        type=_port,
        metavar=("START", "END"),
        help="ports for the scheduler and the dashboard, END included; required to start",
    )
    parser.add_argument(
        "--status-file",
        type=Path,
        metavar="PATH",
        help="status file; required to start",
    )
    parser.add_argument(
        "--host",
        metavar="HOST",
        help="address or name of the network interface that the scheduler and the "
        f"dashboard listen on (default: {DEFAULT_HOST})",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="end after so many seconds without work; the parameter timeout of the "
        "status file takes precedence (default: never)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the parameters, print the job script (on a local cluster the options "
        "of the workers), and end; nothing is changed",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="as --dry-run, and look for what would go wrong on this machine: addresses, "
        "ports, programs, folders, and what the batch system says without a submission; "
        "the exit code is 0 if a start is possible, warnings or not",
    )
    parser.add_argument(
        "--cluster",
        metavar="NAME",
        help="with --check or --dry-run: a cluster of ~/.seamless/clusters.yaml, in place "
        "of CLUSTER_STRING, its parameters, --host and --port-range",
    )
    parser.add_argument(
        "--queue",
        metavar="NAME",
        help="with --cluster: one of its queues (default: its default_queue)",
    )
    parser.add_argument(
        "--project",
        metavar="NAME",
        help="with --cluster: the project, which names the jobs (default: that of "
        "seamless.yaml in this folder)",
    )
    parser.add_argument(
        "--parameters",
        type=Path,
        metavar="PATH",
        help="with --check or --dry-run, in place of a status file: a JSON file with "
        "parameters",
    )
    parser.add_argument(
        "--print-schema",
        action=_PrintSchema,
        help="print a JSON schema of the parameters, with descriptions, units and "
        "defaults, and end",
    )
    parser.add_argument(
        "--log-level",
        type=str.upper,
        choices=logs.LEVELS,
        default="INFO",
        help="least level of the messages on the standard error, also those of workers "
        "on this machine (default: %(default)s)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    return parser


class _PrintSchema(argparse.Action):
    """Like ``--version``: no other argument is needed on the command line."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str):
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, *arguments: object, **options: object
    ) -> None:
        from .settings.parameters import json_schema

        print(json.dumps(json_schema(), indent=2))
        parser.exit()


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not between 1 and 65535")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return seconds


def _version() -> str:
    try:
        return importlib.metadata.version("seamless-dask")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _parser()
    with checked_output(ExitCode.NO_OUTPUT):  # --help, --version, --print-schema
        options = parser.parse_args(arguments)
    _check_usage(parser, options)

    logs.set_up(options.log_level)
    try:
        if options.check or options.dry_run:
            load_dask()
            return _look(options)
        supervisor = _supervisor(options)
    except DaskUnusable as error:
        return _cannot_start(options, str(error))
    code = int(supervisor.run())
    _exit_soon(code)
    return code


def _supervisor(options: argparse.Namespace) -> Supervisor:
    # A signal waits until it can end the wrapper in good order.
    with signals.held_back():
        load_dask()
        # not at the top: --help and --version should not wait for Dask
        from .events import Endpoint
        from .supervisor import Options, Supervisor

        start, end = options.port_range
        supervisor = Supervisor(
            Options(
                cluster_string=options.cluster_string,
                endpoint=Endpoint(options.host or DEFAULT_HOST, start, end),
                status_file=options.status_file.absolute(),
                timeout=options.timeout,
            )
        )
        supervisor.install()
    return supervisor


def _check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    looks = options.check or options.dry_run
    if options.check and options.dry_run:
        parser.error("--check shows all that --dry-run does: leave out one of them")
    if options.cluster is None:
        for name in ("queue", "project"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} goes with --cluster only")
        if options.cluster_string is None:
            parser.error("--cluster or CLUSTER_STRING is required")
    elif not looks:
        parser.error("--cluster goes with --check or --dry-run only")
    else:
        others = ("cluster_string", "parameters", "status_file", "host", "port_range")
        given = [name for name in others if getattr(options, name) is not None]
        if given:
            names = ", ".join(
                "CLUSTER_STRING" if name == "cluster_string" else f"--{name}"
                for name in given
            ).replace("_", "-")
            parser.error(f"--cluster says it: leave out {names}")
    if looks and options.cluster is None:
        if (options.parameters is None) == (options.status_file is None):
            parser.error(
                "--check and --dry-run need one of --cluster, --parameters, --status-file"
            )
    elif not looks:
        if options.parameters is not None:
            parser.error("--parameters goes with --check or --dry-run only")
        if options.port_range is None or options.status_file is None:
            parser.error("--port-range and --status-file are required")
    if options.port_range is not None and options.port_range[0] > options.port_range[1]:
        parser.error(
            "argument --port-range: {} is above {}".format(*options.port_range)
        )


def _look(options: argparse.Namespace) -> int:
    from .cluster_string import resolve
    from .dry_run import show
    from .exit_codes import WrapperError
    from .site_check import check_site

    code = ExitCode.CLEAN
    try:
        plan = _plan(options)
        if options.check:
            shown, code = check_site(plan)
        else:
            cluster_class = resolve(plan.cluster_string)
            shown = show(
                cluster_class, plan.parameters, plan.scheduler, plan.service
            ).text
    except WrapperError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    with checked_output(ExitCode.NO_OUTPUT):
        print(shown)
    return int(code)


def _plan(options: argparse.Namespace) -> Plan:
    from .clusters_file import Service, read_cluster
    from .dry_run import read
    from .site_check import Plan, plan_of, scheduler_address

    if options.cluster is not None:
        return plan_of(read_cluster(options.cluster, options.queue, options.project))
    file = options.parameters or options.status_file
    ports = tuple(options.port_range) if options.port_range else None
    service = Service("daskserver", options.host or DEFAULT_HOST, ports)
    return Plan(
        title=f"{options.cluster_string} with {file}",
        cluster_string=options.cluster_string,
        parameters=read(file),
        service=file.stem,
        services=(service,),
        scheduler=scheduler_address(service),
    )


def _cannot_start(options: argparse.Namespace, reason: str) -> int:
    """Report why no cluster can start; the caller reads it in the status file."""
    print(reason, file=sys.stderr)
    if not (options.check or options.dry_run):
        from .exit_codes import WrapperError
        from .status_file import StatusFile

        try:
            StatusFile.wait(options.status_file.absolute()).failed(reason)
        except (OSError, WrapperError) as error:
            print(error, file=sys.stderr)
    return int(ExitCode.START_FAILED)


def _exit_soon(code: int) -> None:
    """End the process even if a thread hangs: all important work is done."""

    def leave() -> None:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:  # it was closed before the start
                    stream.flush()
        finally:
            os._exit(code)

    timer = threading.Timer(EXIT_SECONDS, leave)
    timer.daemon = True
    timer.start()
