"""What functions give alone: each call in a fresh process, and so each nested call.

``alone([(function, arguments), ...])`` starts one clean Python process, in which nothing
of Seamless is imported, and which only forks: one process for each call. The source of
the function is what is executed, as for a transformation. ``direct`` and ``delayed`` of
``seamless.transformer`` are stood in for there by calls that are executed in a process
of their own, too.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import linecache
import os
import socket
import subprocess
import sys
import textwrap
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

#: calls that are executed at the same time, each in its own process: most only sleep
TOGETHER = 12

Call = tuple[Callable[..., Any], Mapping[str, Any]]

_numbers = itertools.count()


def alone(calls: Sequence[Call], timeout: float = 120) -> list[Any]:
    """Return what each call gives in a process of its own, as JSON has it."""
    work = [
        {"source": inspect.getsource(function), "args": [], "kwargs": dict(arguments)}
        for function, arguments in calls
    ]
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    for (function, arguments), outcome in zip(calls, outcomes, strict=True):
        if "error" in outcome:
            name = f"{function.__name__}({dict(arguments)})"
            raise AssertionError(f"alone, {name} fails:\n{outcome['error']}")
    return [outcome["value"] for outcome in outcomes]


# -- in the clean process ------------------------------------------------------------


def fork(work: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    """Let a new process do `work` with its end of a connection to this one."""
    mine, other = socket.socketpair()
    pid = os.fork()
    if pid:
        other.close()
        return pid, mine
    mine.close()
    try:
        work(other)
    except BaseException:  # noqa: BLE001  a process that was forked ends here
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def execute(call: Mapping[str, Any]) -> Any:
    """Execute a call in a new process and return what it sends back."""

    def work(connection: socket.socket) -> None:
        if "seamless" in call["source"]:
            # Stays as clean as the process that forked this one; for nested calls.
            _pid, clean = fork(serve)
            sys.modules.update(stand_ins(clean))
        try:
            answer = {"value": evaluate(call)}
        except Exception:  # noqa: BLE001  it is the outcome, and is reported
            answer = {"error": traceback.format_exc()}
        connection.sendall(json.dumps(answer).encode() + b"\n")

    pid, connection = fork(work)
    with connection, connection.makefile() as answers:
        line = answers.readline()
    _pid, status = os.waitpid(pid, 0)
    return json.loads(line) if line else {"error": f"it ended with status {status}"}


def serve(connection: socket.socket) -> None:
    """Execute calls, one after the other, for as long as somebody asks."""
    with connection.makefile() as calls:
        for line in calls:
            answer = execute(json.loads(line))
            connection.sendall(json.dumps(answer).encode() + b"\n")


def evaluate(call: Mapping[str, Any]) -> Any:
    """Execute the source and then the function that it defines."""
    source = textwrap.dedent(call["source"])
    filename = f"<alone {next(_numbers)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    namespace: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), namespace)
    functions = [f for f in namespace.values() if inspect.isfunction(f)]
    return functions[-1](*call["args"], **call["kwargs"])


def stand_ins(clean: socket.socket) -> dict[str, types.ModuleType]:
    """The modules ``seamless`` and ``seamless.transformer``, of which little is used."""
    answers = clean.makefile()

    class Started:
        def __init__(self, function: Any, args: Any, kwargs: Any) -> None:
            self._call = {
                "source": inspect.getsource(function),
                "args": args,
                "kwargs": kwargs,
            }

        def start(self) -> None:
            """Its value is computed when it is asked for."""

        def run(self) -> Any:
            clean.sendall(json.dumps(self._call).encode() + b"\n")
            answer = json.loads(answers.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer["value"]

    seamless, transformer = (
        types.ModuleType(name) for name in ("seamless", "seamless.transformer")
    )
    seamless.transformer = transformer  # type: ignore[attr-defined]
    transformer.delayed = (  # type: ignore[attr-defined]
        lambda function: lambda *args, **kwargs: Started(function, args, kwargs)
    )
    transformer.direct = (  # type: ignore[attr-defined]
        lambda function: lambda *args, **kwargs: Started(function, args, kwargs).run()
    )
    return {"seamless": seamless, "seamless.transformer": transformer}


def main() -> None:
    """Read calls, execute each alone, write the outcomes."""
    work = json.load(sys.stdin)
    # Imported once instead of in each process; its generator is not used here.
    importlib.import_module("numpy.random")
    outcomes = os.dup(1)
    os.dup2(2, 1)  # what the calls print
    # Forked from threads: what is forked only executes a call and ends.
    with ThreadPoolExecutor(TOGETHER) as executor:
        answers = list(executor.map(execute, work))
    with os.fdopen(outcomes, "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main()
