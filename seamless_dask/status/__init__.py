"""``python -m seamless_dask.status``: shows the state of a cluster in a terminal.

It asks the plugin in the scheduler over Dask's RPC, so it needs no dashboard. For TLS it
needs the same Dask configuration as any client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from scheduler_ext import messages, outputs

from ..command import spelling
from ..command.dask_loading import DaskUnusable, load_dask
from ..command.output import checked_output
from . import web
from .address import NotClear, NotFound, resolve

#: Seconds for an answer
TIMEOUT = 10.0
#: Part of this time for the connection, which a busy scheduler accepts late
CONNECT = 0.8
#: Seconds until the machine of the scheduler must answer; enough for two lost packets
REACH = 3.5
#: Exit code if the output cannot be written
NOT_WRITTEN = 1
#: {what a question without further words is about: name of the call}
OPERATIONS = {
    "status": messages.OP_STATUS,
    "failures": messages.OP_FAILURES,
    "report": messages.OP_REPORT,
}
#: Columns of the output without a terminal
PIPE_WIDTH = 160

PROG = "python -m seamless_dask.status"
DESCRIPTION = """\
Show the state of a Dask cluster that runs Seamless transformations.

  python -m seamless_dask.status                        the only cluster that runs
  python -m seamless_dask.status tcp://HOST:PORT        this scheduler
  python -m seamless_dask.status http://HOST:PORT       the scheduler with this dashboard
  python -m seamless_dask.status PATH/daskserver-X.json the cluster of a status file
  python -m seamless_dask.status daskserver-X           the same, by its name
  python -m seamless_dask.status [ADDRESS] why CHECKSUM where a transformation is, what it
                                                        waits for, how it failed
  python -m seamless_dask.status [ADDRESS] why NAME     the same of the transformations of
                                                        a function, given by its name
  python -m seamless_dask.status [ADDRESS] failures     the last 100 that failed
  python -m seamless_dask.status [ADDRESS] output CHECKSUM|NAME [--follow]
                                                        what transformations write
  python -m seamless_dask.status [ADDRESS] report       where the time went, by name
  python -m seamless_dask.status --check                whether the packages on this
                                                        machine fit
"""

EPILOG = """\
"dask seamless" is the same command: dask seamless why CHECKSUM.

The only cluster is found by the status files of daskservers in
~/.remote-http-launcher/server and ~/.remote-http-launcher/client.

exit codes:
  0  the state is shown
  1  not found: no cluster, no answer from it, no Seamless plugin in it or one of another
     version, or an unknown transformation; with --check: a package is missing, or this
     version cannot work with it; or the output cannot be written
  2  wrong usage; also several clusters, or several checksums that begin with the digits
"""

Answer = dict[str, Any]
About = Literal["status", "why", "failures", "report", "output"]


@dataclass(frozen=True)
class Question:
    """A question to a scheduler.

    ``what`` is the checksum of a transformation, or a name, if ``about`` is "why" or
    "output". ``since`` and ``follow`` are for "output", see `scheduler_ext.outputs`.
    """

    address: str
    about: About
    what: str = ""
    since: int | None = None
    follow: bool = False


class Refused(Exception):
    """The scheduler did not understand the question; the message is a sentence."""


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command; return its exit code, or exit if its output cannot be written.

    `prog` is how the user has called it.
    """
    with checked_output(NOT_WRITTEN):
        return _run(arguments, prog)


def _run(arguments: Sequence[str] | None, prog: str) -> int:
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    if options.check and (options.words or options.watch):
        parser.error("--check goes with --json only")
    where, about, what = _words(parser, options.words)
    if options.follow and (about != "output" or options.json):
        parser.error("--follow goes with output only, and without --json")
    if options.watch and about == "output":
        parser.error("--watch does not go with output; --follow does")
    try:
        if options.check:
            from . import installed  # imports all packages; only --check needs them

            return installed.show(as_json=options.json)
        load_dask()
        address = resolve(where, protocol=_protocol(), others=get_args(About))
        question = Question(address, about, what, follow=options.follow)
        with _quiet():
            if about == "output" and not options.json:
                from . import output  # only this needs it

                return output.show(
                    what,
                    lambda since: ask(replace(question, since=since), TIMEOUT),
                    follow=options.follow,
                )
            return _show(question, as_json=options.json, every=options.watch)
    except (NotFound, DaskUnusable) as problem:
        print(problem, file=sys.stderr)
        return 1
    except (NotClear, Refused) as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def ask(question: Question, timeout: float) -> Answer:
    """Ask a scheduler.

    Parameters
    ----------
    question
        The address of the scheduler is "tcp://host:port".
    timeout
        Seconds for the connection and the answers.

    Raises
    ------
    NotFound
        If it does not answer, or has no plugin of a known version.
    Refused
        If several transformations have checksums that begin with the given digits.
    """
    from distributed.security import Security

    if web.is_web(question.address):
        answer = web.ask(question.address, question.about, question.what, timeout)
        return _understood(answer)
    try:
        arguments = Security().get_connection_args("client")
        answer = asyncio.run(
            asyncio.wait_for(_ask(question, timeout, arguments), timeout)
        )
    except (
        asyncio.TimeoutError,  # another one before Python 3.11
        OSError,  # CommClosedError as well; the others come from the address or TLS
        ValueError,
        TypeError,
        RuntimeError,
    ) as problem:
        raise NotFound(f"{question.address} {_cause(problem, timeout)}") from None
    return _understood(answer)


def _understood(answer: Answer) -> Answer:
    if answer.pop("status", None) != "ok":
        raise Refused("; ".join(answer.get("errors", ["The scheduler refused."])))
    return answer


# -- the command line --------------------------------------------------------------


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [options] [ADDRESS] [why CHECKSUM | why NAME | failures | report | "
        "output CHECKSUM | output NAME]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="ADDRESS",
        help="see above; at least 6 digits of a checksum, or a name or a part of it, with "
        '"why" or "output" before them',
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the answer of the scheduler, or the result of --check, as JSON",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="ask no scheduler: show the installed and the allowed versions of packages "
        "on this machine, and private names of them that are missing; include the output "
        "when you report a problem. With --json: all private names that we use",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="with output: go on until these transformations have ended, or Ctrl-C",
    )
    parser.add_argument(
        "--watch",
        type=_seconds,
        metavar="SECONDS",
        help="show it again after so many seconds, until Ctrl-C",
    )
    return parser


def _words(
    parser: argparse.ArgumentParser, words: Sequence[str]
) -> tuple[str | None, About, str]:
    """The address, what the question is about, and the word after "why" or "output"."""
    rest = list(words)
    if rest[:1] == ["status"]:  # as in "dask seamless status"
        del rest[0]
    address = rest.pop(0) if rest and rest[0] not in get_args(About) else None
    if rest in ([], ["status"]):
        return address, "status", ""
    if rest == ["failures"]:
        return address, "failures", ""
    if rest == ["report"]:
        return address, "report", ""
    if rest[0] not in ("why", "output") or len(rest) != 2:
        unknown = [word for word in words if word not in get_args(About)]
        meant = "".join(spelling.question(word, get_args(About)) for word in unknown)
        parser.error(
            f'got {" ".join(words)!r}, allowed: at most one address, then "failures", '
            f'"report", or "why" or "output" and one checksum or name{meant}'
        )
    return address, "why" if rest[0] == "why" else "output", rest[1]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 86400")
    return seconds


def _protocol() -> str:
    """The protocol of the scheduler, if it has the same Dask configuration as we."""
    import dask.config

    encrypted = dask.config.get("distributed.comm.require-encryption", False)
    return "tls" if encrypted else "tcp"


# -- printing ----------------------------------------------------------------------


def _show(question: Question, *, as_json: bool, every: float | None) -> int:
    answer = ask(question, TIMEOUT)
    if as_json:
        for each in _repeated(question, answer, every):
            print(json.dumps(each, indent=None if every else 2), flush=True)
        return _code(answer)

    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if every is None and console.is_terminal:
        console.print(_view(question, answer))
        return _code(answer)
    if not console.is_terminal or console.is_dumb_terminal:
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = PIPE_WIDTH
        for each in _repeated(question, answer, every):
            with console.capture() as captured:
                console.print(_view(question, each))
            for line in captured.get().splitlines():
                print(line.rstrip())
            sys.stdout.flush()
        return _code(answer)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        for each in _repeated(question, answer, every):
            live.update(_view(question, each, cut=True), refresh=True)
    return _code(answer)


def _repeated(
    question: Question, answer: Answer, every: float | None
) -> Iterator[Answer]:
    yield answer
    while every is not None:
        time.sleep(every)
        yield ask(question, TIMEOUT)


def _view(question: Question, answer: Answer, *, cut: bool = False) -> Any:
    """The answer for people; `cut` says that only the first lines may be seen."""
    from . import view

    if question.about == "status":
        return view.status(question.address, answer, summary_first=cut)
    if question.about == "report":
        from . import report_view

        return report_view.report(answer)
    if question.about == "failures":
        return view.failures(answer)
    return view.why(answer)


def _code(answer: Answer) -> int:
    return 0 if answer.get("found", True) else 1


# -- the scheduler -----------------------------------------------------------------


async def _ask(question: Question, timeout: float, arguments: dict[str, Any]) -> Answer:
    from distributed.core import rpc

    address = question.address
    await _reach(address)
    # less than the whole time, so that the cause of a failed connection is reported
    scheduler = rpc(address, timeout=CONNECT * timeout, connection_args=arguments)
    try:
        try:
            version = await getattr(scheduler, messages.OP_VERSION)()
        except (ArithmeticError, LookupError, MemoryError, struct.error) as error:
            # what Dask makes of the bytes of another kind of server
            raise NotFound(
                f"{address} is no Dask scheduler: its answer cannot be read ({error})."
            ) from None
        _check(address, version)
        if question.about == "why":
            call = getattr(scheduler, messages.OP_WHY)
            return dict(await call(**messages.why(question.what)))
        if question.about == "output":
            output = getattr(scheduler, outputs.OP_OUTPUT)
            arguments = outputs.question(
                question.what, since=question.since, follow=question.follow
            )
            return dict(await output(**arguments))
        return dict(await getattr(scheduler, OPERATIONS[question.about])())
    finally:
        await scheduler.close_rpc()


async def _reach(address: str) -> None:
    """Make sure that something listens there: Dask itself would try again for long.

    The system accepts a connection also if the scheduler is busy.
    """
    from distributed.comm.addressing import parse_address, parse_host_port

    protocol, location = parse_address(address)
    if protocol not in ("tcp", "tls"):
        return
    host, port = parse_host_port(location)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), REACH)
    except asyncio.TimeoutError:
        raise NotFound(
            f"{address} does not answer within {REACH:g} s: is it the right address, "
            "and does the cluster run?"
        ) from None
    writer.transport.abort()


def _check(address: str, version: Any) -> None:
    from scheduler_ext import PROTOCOL, __version__

    if not isinstance(version, dict) or "protocol" not in version:
        raise NotFound(
            f"{address} is a Dask server without the Seamless plugin: no Seamless "
            "client has used it, or it is no scheduler."
        )
    if version["protocol"] != PROTOCOL:
        raise NotFound(
            f"{address} has version {version.get('version')} of the Seamless plugin "
            f"(protocol {version['protocol']}), this is version {__version__} (protocol "
            f"{PROTOCOL}): use the same version on both sides."
        )


def _cause(problem: BaseException, timeout: float) -> str:
    """The innermost cause, which says most, as the rest of a sentence."""
    late = (asyncio.TimeoutError, TimeoutError)
    while problem.__cause__ is not None and not isinstance(problem, late):
        problem = problem.__cause__
    if isinstance(problem, late):
        return (
            f"does not answer within {timeout:g} s; is that the port of the scheduler, "
            "not of its dashboard?"
        )
    return f"cannot be reached: {str(problem).rstrip('.') or type(problem).__name__}."


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's messages about connections: we report errors ourselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
