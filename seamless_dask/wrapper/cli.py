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

from ..command.dask_loading import DaskUnusable, load_dask
from ..command.output import checked_output
from . import logs, signals
from .exit_codes import MEANINGS, ExitCode

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

With --dry-run it only prints the job script, or the options of the workers:
  seamless-dask-wrapper dask_jobqueue::SLURMCluster --dry-run --parameters FILE.json
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
        metavar="CLUSTER_STRING",
        help="cluster class as MODULE::SYMBOL, such as distributed::LocalCluster or "
        "dask_jobqueue::SLURMCluster",
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
        default="127.0.0.1",
        metavar="HOST",
        help="address or name of the network interface that the scheduler and the "
        "dashboard listen on (default: %(default)s)",
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
        "--parameters",
        type=Path,
        metavar="PATH",
        help="with --dry-run, in place of a status file: a JSON file with parameters",
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
        load_dask()
    except DaskUnusable as error:
        return _cannot_start(options, str(error))
    if options.dry_run:
        return _dry_run(options)
    start, end = options.port_range
    with signals.held_back():
        # not at the top: --help and --version should not wait for Dask
        from .events import Endpoint
        from .supervisor import Options, Supervisor

        supervisor = Supervisor(
            Options(
                cluster_string=options.cluster_string,
                endpoint=Endpoint(options.host, start, end),
                status_file=options.status_file.absolute(),
                timeout=options.timeout,
            )
        )
        supervisor.install()
    code = int(supervisor.run())
    _exit_soon(code)
    return code


def _check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.dry_run:
        if (options.parameters is None) == (options.status_file is None):
            parser.error("--dry-run needs either --parameters or --status-file")
    else:
        if options.parameters is not None:
            parser.error("--parameters goes with --dry-run only")
        if options.port_range is None or options.status_file is None:
            parser.error("--port-range and --status-file are required")
    if options.port_range is not None and options.port_range[0] > options.port_range[1]:
        parser.error(
            "argument --port-range: {} is above {}".format(*options.port_range)
        )


def _dry_run(options: argparse.Namespace) -> int:
    from .dry_run import dry_run
    from .exit_codes import WrapperError

    file = options.parameters or options.status_file
    port = options.port_range[0] if options.port_range else "PORT"
    try:
        shown = dry_run(options.cluster_string, file, f"tcp://{options.host}:{port}")
    except WrapperError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    with checked_output(ExitCode.NO_OUTPUT):
        print(shown)
    return 0


def _cannot_start(options: argparse.Namespace, reason: str) -> int:
    """Report why no cluster can start; the caller reads it in the status file."""
    print(reason, file=sys.stderr)
    if not options.dry_run:
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
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(EXIT_SECONDS, leave)
    timer.daemon = True
    timer.start()
