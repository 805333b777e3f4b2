"""The command line of ``seamless-dask-wrapper``."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path

from . import signals
from .exit_codes import MEANINGS

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
        required=True,
        metavar=("START", "END"),
        help="ports for the scheduler and the dashboard, END included",
    )
    parser.add_argument(
        "--status-file", type=Path, required=True, metavar="PATH", help="status file"
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
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    return parser


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
    options = parser.parse_args(arguments)
    start, end = options.port_range
    if start > end:
        parser.error(f"argument --port-range: {start} is above {end}")

    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.captureWarnings(True)

    with signals.held_back():
        # not at the top: --help and --version should not wait for Dask
        from .launch import Endpoint
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


def _exit_soon(code: int) -> None:
    """Do not let a thread that hangs keep the process: all that matters is done."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(EXIT_SECONDS, leave)
    timer.daemon = True
    timer.start()
