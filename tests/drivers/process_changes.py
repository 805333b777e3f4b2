"""What jobs do to their process; a script of `test_process_state`.

Each entry of `CHANGES` has a function that changes something, and one that observes it.
The script applies them to its own process, which is why it is not part of the tests'.
"""

from __future__ import annotations

import asyncio
import builtins
import codecs
import copyreg
import csv
import ctypes
import decimal
import fcntl
import gc
import json
import locale
import logging
import math
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy

from seamless_dask.child.state.process import ProcessState

numpy.random.rand()  # loads it
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
libc.drand48.restype = ctypes.c_double
scratch = tempfile.mkdtemp(prefix="process-changes-")
logging.getLogger("ours").addHandler(logging.StreamHandler())
logging.getLogger("ours").setLevel(logging.ERROR)


def change(name: str, observe: Callable[[], Any]) -> Callable[[Any], Any]:
    """Add an entry; what is decorated does the change."""

    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        CHANGES[name] = function, observe
        return function

    return add


def simple(name: str, do: Callable[[], Any], observe: Callable[[], Any]) -> None:
    CHANGES[name] = do, observe


def where() -> str:
    found = os.stat(".")
    return f"{found.st_dev} {found.st_ino}"


@change("directory", where)
def _() -> None:
    os.chdir(scratch)


@change("directory deleted", where)
def _() -> None:
    os.chdir(tempfile.mkdtemp(dir=scratch))
    os.rmdir(os.getcwd())


def environment() -> Any:
    names = ["A", "HOME", "PATH", "B"]
    of_c = [libc.getenv(name.encode()) for name in names]
    return [os.environ.get(name) for name in names], of_c, len(os.environ)


@change("environment", environment)
def _() -> None:
    os.environ["A"] = "1"
    os.environ["PATH"] = "/nowhere"
    os.environ.pop("HOME", None)


@change("environment of C", environment)
def _() -> None:
    libc.setenv(b"B", b"2", 1)
    libc.unsetenv(b"PATH")


@change("environment replaced", lambda: id(os.environ))
def _() -> None:
    os.environ = dict(os.environ)  # type: ignore[assignment] # noqa: B003


@change("time zone", lambda: (time.tzname, time.localtime(0).tm_hour, time.ctime(0)))
def _() -> None:
    os.environ["TZ"] = "XYZ-7"
    time.tzset()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


simple("umask", lambda: os.umask(0o007), umask)


def timer() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


simple("alarm", lambda: signal.alarm(1000), timer)


@change("limit", lambda: resource.getrlimit(resource.RLIMIT_CORE))
def _() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1024 if soft != 1024 else 0, hard))


def outputs() -> Any:
    def one(number: int) -> Any:
        try:
            found = os.fstat(number)
        except OSError:
            return None
        return found.st_ino, found.st_rdev

    return [one(number) for number in (0, 1, 2)]


@change("output redirected", outputs)
def _() -> None:
    file = os.open(os.path.join(scratch, "out"), os.O_CREAT | os.O_WRONLY)
    os.dup2(file, 1)
    os.close(file)


simple("error output closed", lambda: os.closerange(2, 3), outputs)


def blocking() -> Any:
    return [os.get_blocking(n) for n in (0, 1, 2) if outputs()[n] is not None]


# as asyncio does when it connects to one
simple("output does not block", lambda: os.set_blocking(1, False), blocking)


def text() -> Any:
    out = cast(Any, sys.__stdout__)
    return out.encoding, out.errors, out.line_buffering, out.write_through


@change("text of output", text)
def _() -> None:
    out = cast(Any, sys.__stdout__)
    out.reconfigure(encoding="ascii", errors="ignore", line_buffering=True)


@change("affinity", lambda: os.sched_getaffinity(os.getpid()))
def _() -> None:
    os.sched_setaffinity(os.getpid(), {max(os.sched_getaffinity(os.getpid()))})


simple(
    "locale",
    lambda: locale.setlocale(locale.LC_NUMERIC, "C.UTF-8"),
    lambda: locale.setlocale(locale.LC_ALL),
)


def warned() -> Any:
    return [f[0] for f in warnings.filters], warnings.showwarning, len(warnings.filters)


simple("warnings as errors", lambda: warnings.simplefilter("error"), warned)


@change("warnings shown", warned)
def _() -> None:
    warnings.showwarning = lambda *a, **k: None
    warnings.filters.clear()  # type: ignore[attr-defined]


@change("warnings replaced", lambda: (id(warnings.filters), warnings.defaultaction))  # type: ignore[attr-defined]
def _() -> None:
    warnings.filters = []
    warnings.defaultaction = "ignore"  # type: ignore[attr-defined]


def ours() -> Any:
    logger = logging.getLogger("ours")
    handlers = [(id(h), h.level, h.formatter) for h in logger.handlers]
    return handlers, logger.level, logger.disabled, logger.isEnabledFor(20)


@change("logger", ours)
def _() -> None:
    logger = logging.getLogger("ours")
    logger.setLevel(logging.DEBUG)
    logger.handlers[0].setLevel(50)
    logger.addHandler(logging.StreamHandler())
    logger.disabled = True


@change("root logger", lambda: (list(logging.root.handlers), logging.root.level))
def _() -> None:
    logging.basicConfig(level=5, force=True)


simple(
    "logging off",
    lambda: logging.disable(50),
    lambda: logging.getLogger("other").isEnabledFor(50),
)


def new_logger() -> Any:
    logger = logging.getLogger("new")
    return logger.handlers[:], logger.level, logger.propagate


@change("new logger", new_logger)
def _() -> None:
    logging.getLogger("new").addHandler(logging.StreamHandler())
    logging.getLogger("new").setLevel(1)
    logging.getLogger("new").propagate = False


def stack_size() -> int:
    size = threading.stack_size()  # which sets it to 0
    threading.stack_size(size)
    return size


simple("level", lambda: logging.addLevelName(20, "x"), lambda: logging.getLevelName(20))
simple("garbage", gc.disable, gc.isenabled)
simple("thresholds", lambda: gc.set_threshold(3, 3, 3), gc.get_threshold)
simple(
    "gc calls", lambda: gc.callbacks.append(lambda *_: None), lambda: list(gc.callbacks)
)
simple("tracing memory", lambda: tracemalloc.start(3), tracemalloc.is_tracing)
simple("recursion", lambda: sys.setrecursionlimit(4321), sys.getrecursionlimit)
simple("switching", lambda: sys.setswitchinterval(0.5), sys.getswitchinterval)
simple("stack", lambda: threading.stack_size(1 << 20), stack_size)
simple("timeout", lambda: socket.setdefaulttimeout(9), socket.getdefaulttimeout)
simple("csv", lambda: csv.field_size_limit(7), csv.field_size_limit)
if hasattr(sys, "set_int_max_str_digits"):
    simple(
        "digits", lambda: sys.set_int_max_str_digits(999), sys.get_int_max_str_digits
    )
simple(
    "loop policy",
    lambda: asyncio.set_event_loop_policy(
        type("Policy", (asyncio.DefaultEventLoopPolicy,), {})()
    ),
    lambda: type(asyncio.get_event_loop_policy()),
)
simple(
    "start method",
    lambda: multiprocessing.set_start_method("forkserver", force=True),
    lambda: multiprocessing.get_start_method(),
)
simple("path", lambda: sys.path.insert(0, scratch), lambda: sys.path[:])
simple("path list", lambda: setattr(sys, "path", sys.path[:]), lambda: id(sys.path))
simple("arguments", lambda: sys.argv.append("x"), lambda: sys.argv[:])


class Finder:
    @staticmethod
    def find_spec(*_: object) -> None:
        return None


simple("finder", lambda: sys.meta_path.append(Finder), lambda: sys.meta_path[:])


def no_hook(path: str) -> Any:
    raise ImportError(path)


simple("hook", lambda: sys.path_hooks.insert(0, no_hook), lambda: sys.path_hooks[:])


def modules() -> list[str]:
    names = ("written", "made_up", "json.made_up", "space.inner", "colorsys", "xdrlib2")
    return [name for name in names if name in sys.modules and name != "colorsys"]


@change("module in a file", modules)
def _() -> None:
    Path(scratch, "written.py").write_text("value = 1")
    Path(scratch, "space").mkdir(exist_ok=True)
    Path(scratch, "space", "inner.py").write_text("value = 1")
    sys.path.insert(0, scratch)
    import colorsys  # noqa: F401

    import space.inner
    import written  # noqa: F401

    assert space.inner.value == 1
    del sys.path[0]


@change("module made up", modules)
def _() -> None:
    sys.modules["made_up"] = types.ModuleType("made_up")


@change("module replaced", lambda: __import__("json") is json)
def _() -> None:
    sys.modules["json"] = types.ModuleType("json")


simple(
    "module removed",
    lambda: sys.modules.pop("csv", None),
    lambda: sys.modules.get("csv") is csv,
)
simple(
    "copyreg",
    lambda: copyreg.pickle(Finder, str),
    lambda: Finder in copyreg.dispatch_table,
)
simple("sleep", lambda: setattr(time, "sleep", print), lambda: time.sleep)
simple("exists", lambda: setattr(os.path, "exists", str), lambda: os.path.exists)
simple("pi", lambda: setattr(math, "pi", 3), lambda: math.pi)
simple("dumps", lambda: setattr(json, "dumps", str), lambda: json.dumps)
simple("new name", lambda: setattr(os, "new", 1), lambda: hasattr(os, "new"))


class LikeAll:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "like all"


like_all = LikeAll()
simple("equal to all", lambda: setattr(math, "tau", like_all), lambda: math.tau)
simple("builtin", lambda: setattr(builtins, "sum", max), lambda: builtins.sum)
simple(
    "name removed",
    lambda: vars(os).pop("getlogin", None),
    lambda: hasattr(os, "getlogin"),
)
simple(
    "encoder",
    lambda: setattr(json.JSONEncoder, "default", str),
    lambda: json.JSONEncoder.default,
)
simple("sys.stdout", lambda: setattr(sys, "stdout", sys.stderr), lambda: sys.stdout)
simple("excepthook", lambda: setattr(sys, "excepthook", print), lambda: sys.excepthook)
simple(
    "thread hook",
    lambda: setattr(threading, "excepthook", print),
    lambda: threading.excepthook,
)
simple(
    "tracing",
    lambda: threading.settrace(lambda *_: None),  # type: ignore[arg-type, return-value]
    lambda: threading._trace_hook,  # type: ignore[attr-defined]
)
simple(
    "tempdir",
    lambda: setattr(tempfile, "tempdir", scratch),
    lambda: tempfile.tempdir,
)


@change("run", lambda: subprocess.run)
def _() -> None:
    subprocess.run = print  # type: ignore[assignment]


SEEDED = random.Random(1).getstate()
simple("random", lambda: random.seed(1), lambda: random.getstate() == SEEDED)
NUMPY_SEEDED = numpy.random.RandomState(1).random()


def numpy_seeded() -> bool:
    state = numpy.random.get_state(legacy=False)
    seeded = numpy.random.random() == NUMPY_SEEDED
    numpy.random.set_state(state)
    return seeded


simple("numpy.random", lambda: numpy.random.seed(1), numpy_seeded)


@change("numpy generator", lambda: type(numpy.random.get_bit_generator()))
def _() -> None:
    numpy.random.set_bit_generator(numpy.random.PCG64(1))


def second_normal_number() -> Any:
    state = numpy.random.get_state(legacy=False)
    return state["has_gauss"], state["has_gauss"] and state["gauss"]


@change("second normal number", second_normal_number)
def _() -> None:
    state = numpy.random.get_state(legacy=False)
    state["has_gauss"], state["gauss"] = 1, 0.25
    numpy.random.set_state(state)


def drawn() -> Any:
    """Draw of the C library, in a child: there it has no consequence."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        values = [libc.rand(), libc.random(), libc.drand48()]
        os.write(writer, json.dumps(values).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        values = file.read().decode()
    os.waitpid(child, 0)
    return values


simple("srand", lambda: libc.srand(5), drawn)
simple("rand drawn", lambda: libc.rand(), drawn)
simple("srand48", lambda: libc.srand48(5), drawn)
simple("drand48 drawn", lambda: libc.drand48(), drawn)
user_state = ctypes.create_string_buffer(256)
simple("initstate", lambda: libc.initstate(9, user_state, 256), drawn)


if numpy.__version__.startswith("1."):
    simple(
        "numpy printing",
        lambda: numpy.set_printoptions(precision=2, linewidth=30),
        numpy.get_printoptions,
    )


@change("decimal", lambda: (decimal.DefaultContext.prec, str(decimal.DefaultContext)))
def _() -> None:
    decimal.DefaultContext.prec = 5
    decimal.DefaultContext.traps[decimal.Inexact] = True


def observed() -> dict[str, str]:
    seen = {observe: repr(observe()) for observe in {o for _, o in CHANGES.values()}}
    return {name: seen[observe] for name, (_, observe) in CHANGES.items()}


def one_by_one(state: ProcessState) -> dict[str, str]:
    """Return what is wrong, by kind."""
    wrong = {}
    for name, (do, observe) in CHANGES.items():
        before = repr(observe())
        do()
        changed = repr(observe())
        saved = state.save()
        reasons = state.reset()
        fresh = repr(observe())
        CHANGES["umask"][0]()  # what another job does meanwhile
        state.restore(saved)
        resumed = repr(observe())
        reasons += state.reset()
        if changed == before:
            wrong[name] = f"not changed: {before}"
        elif not before == fresh == repr(observe()):
            wrong[name] = f"{before} became {fresh}, then {observe()!r}"
        elif resumed != changed:
            wrong[name] = f"goes on with {resumed} and not with {changed}"
        elif reasons:
            wrong[name] = f"reasons: {reasons}"
    return wrong


def sequence(first: list[str], second: list[str]) -> dict[str, str]:
    """Do `first`, be suspended while another job does `second`, go on, and end."""
    baseline = observed()
    state = ProcessState()
    for name in first:
        CHANGES[name][0]()
    mine = observed()
    saved = state.save()
    reasons = state.reset()
    fresh = observed()
    for name in second:
        CHANGES[name][0]()
    state.restore(saved)
    resumed = observed()
    reasons += state.reset()
    after = observed()
    wrong = {}
    for name in CHANGES:
        if not baseline[name] == fresh[name] == after[name]:
            wrong[name] = f"{baseline[name]}, {fresh[name]}, {after[name]}"
        elif resumed[name] != mine[name]:
            wrong[name] = f"goes on with {resumed[name]} and not with {mine[name]}"
    if reasons:
        wrong["reasons"] = str(reasons)
    return wrong


def in_any_order() -> dict[str, str]:
    """Let hypothesis look for a sequence that is not put back."""
    from hypothesis import example, given, settings
    from hypothesis import strategies as st

    jobs = st.lists(st.sampled_from(sorted(CHANGES)), max_size=6)

    @settings(max_examples=40, deadline=None, database=None)
    @example(["directory", "error output closed"], [])
    @given(jobs, jobs)
    def check(first: list[str], second: list[str]) -> None:
        # in a process of its own, or hypothesis would suffer from it
        wrong = in_child(lambda: sequence(first, second))
        assert not wrong, wrong

    check()
    return {}


def in_child(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        writer = os.dup2(writer, 200)  # out of the way of what is tried
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            result = {"error": repr(error)}
        os.write(writer, dump(result).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        result = json.loads(file.read())
    os.waitpid(child, 0)
    return result


dump = json.dumps


def none() -> None:
    return None


def _in_thread(function: Callable[..., Any], **arguments: Any) -> None:
    thread = threading.Thread(target=function, kwargs=arguments)
    thread.start()
    thread.join()


def _close_descriptors() -> None:
    os.closerange(3, 64)


def _redirect_for_good() -> None:
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.closerange(3, 64)


def _replace_descriptor() -> None:
    os.dup2(os.open(os.devnull, os.O_RDWR), OURS)


def _lower_hard_limit() -> None:
    os.setuid(65534)  # root could raise it again
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _load_library() -> None:
    ctypes.CDLL(sys.argv[2]).count()


def _load_relative() -> None:
    os.chdir(os.path.dirname(sys.argv[2]))
    ctypes.CDLL("./" + os.path.basename(sys.argv[2])).count()


def _installed_code() -> None:
    import _sqlite3  # noqa: F401

    ctypes.CDLL("libm.so.6")
    import numpy.polynomial  # noqa: F401


kept: list[Any] = []


def _lock(lock: Callable[[Any, int], None]) -> None:
    kept.append(open(os.path.join(scratch, "lock"), "w"))
    lock(kept[0], fcntl.LOCK_EX)


def _server(family: int, address: Any) -> None:
    kept.append(socket.socket(family))
    kept[0].bind(address)
    kept[0].listen()
    kept[0].settimeout(None)
    socket.setdefaulttimeout(3)


def _server_in_a_cycle() -> None:
    _server(socket.AF_INET, ("127.0.0.1", 0))
    kept.append(kept[:])
    kept[1].append(kept[1])
    kept.clear()


def _some_files() -> None:
    first = open(os.devnull)
    kept.extend(open(os.devnull) for _ in range(40))
    kept.append(socket.socket())
    kept.append(socket.socketpair())
    first.close()


def _many_files() -> None:
    kept.extend(open(os.devnull) for _ in range(80))


def _many_closed_files() -> None:
    _many_files()
    for file in kept:
        file.close()


OURS = 50
#: what makes it necessary to replace the process, and a word of the reason
REASONS: dict[str, tuple[Callable[[], Any], str]] = {
    "signal": (lambda: signal.signal(signal.SIGUSR1, print), "SIGUSR1"),
    "signal in C": (lambda: libc.signal(int(signal.SIGUSR2), 1), "SIGUSR2"),
    "closed": (_close_descriptors, "descriptor 50"),
    "replaced": (_replace_descriptor, "descriptor 50"),
    "redirected for good": (_redirect_for_good, "descriptor 1 "),
    "hard limit": (_lower_hard_limit, "RLIMIT_CORE"),
    "stream": (lambda: sys.__stdout__.close(), "sys.__stdout__"),  # type: ignore[union-attr]
    "library": (_load_library, "outside the installation"),
    "relative": (_load_relative, "./"),
    "flock": (lambda: _lock(fcntl.flock), "locked"),
    "lockf": (lambda: _lock(fcntl.lockf), "locked"),
    "server": (lambda: _server(socket.AF_INET, ("127.0.0.1", 0)), "127.0.0.1"),
    "local server": (
        lambda: _server(socket.AF_UNIX, os.path.join(scratch, "address")),
        "address",
    ),
    "many files": (_many_files, "80 descriptors"),
    "audit hook": (lambda: sys.addaudithook(lambda *_: None), "sys.addaudithook"),
    "error handler": (
        lambda: codecs.register_error("mine", codecs.ignore_errors),
        "codecs.register_error of 'mine'",
    ),
    "codec": (lambda: codecs.register(lambda _: None), "codecs.register cannot"),
    "at fork": (lambda: os.register_at_fork(before=none), "os.register_at_fork"),
    "at fork, by a thread": (
        lambda: _in_thread(os.register_at_fork, after_in_child=none),
        "os.register_at_fork",
    ),
    "server in a cycle": (_server_in_a_cycle, ""),
    "some files": (_some_files, ""),
    "many closed files": (_many_closed_files, ""),
    "installed code": (_installed_code, ""),
    "nothing": (none, ""),
}


def reasons(name: str) -> list[list[str]]:
    """Do one of `REASONS`; return what two resets say, and one of a fresh process."""
    os.dup2(os.pipe()[0], OURS)
    if name == "hard limit":
        soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
    state = ProcessState([OURS])
    fresh = state.reset()
    REASONS[name][0]()
    found = [fresh, state.reset(), state.reset()]
    if name == "server":
        assert os.get_blocking(kept[0].fileno())  # looking at it has not changed it
    return found


def numpy_draws() -> dict[str, str]:
    """Draw in processes that were forked from one state of numpy's generator."""

    def draw() -> float:
        ProcessState()
        return numpy.random.random()

    draws = [in_child(draw) for _ in range(3)]
    return {} if len(set(draws)) == 3 else {"draws": str(draws)}


if __name__ == "__main__":
    if sys.argv[1] == "one":
        print(dump(in_child(lambda: one_by_one(ProcessState()))))
    elif sys.argv[1] == "any":
        print(dump(in_any_order()))
    elif sys.argv[1] == "draws":
        print(dump(numpy_draws()))
    else:
        print(dump({name: in_child(lambda n=name: reasons(n)) for name in REASONS}))
