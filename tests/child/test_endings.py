"""However the code of a transformation ends, its caller is told, and nobody else is hurt."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient
from seamless_dask.child.errors import TEXT_LIMIT

pytestmark = pytest.mark.cluster

#: a guard against hanging
SOON = 60.0

#: how code ends, and what the error of its caller contains, most often as its end
ENDINGS = {
    # what is no Exception
    "import asyncio; raise asyncio.CancelledError('c')": "CancelledError: c",
    "raise GeneratorExit('g')": "GeneratorExit: g",
    "raise KeyboardInterrupt('k')": "KeyboardInterrupt: k",
    "import sys; sys.exit('bye')": "SystemExit: bye",
    "raise SystemExit(0)": "SystemExit: 0",
    "raise type('Panic', (BaseException,), {})('index')": "Panic: index",
    "raise StopIteration(3)": "StopIteration: 3",
    # texts that UTF-8 cannot encode, or that are long
    r"raise ValueError('caf\udce9')": r"ValueError: caf\udce9",
    r"raise KeyboardInterrupt('caf\udce9')": r"KeyboardInterrupt: caf\udce9",
    r"import asyncio; raise asyncio.CancelledError('\ud800')": r"CancelledError: \ud800",
    r"exec('x = caf\udce9')": "surrogates not allowed",
    "raise ValueError('y' * 10_000_000 + 'z')": "yyyz",
    "raise BaseException('y' * 10_000_000 + 'z')": "yyyz",
    # exceptions whose text fails
    """
    class Mute(Exception):
        def __str__(self):
            raise ValueError
        __repr__ = __str__
    raise Mute
    """: "Mute: <exception str() failed>",
    """
    class Mute(BaseException):
        def __str__(self):
            raise SystemExit(7)
        __repr__ = __str__
    raise Mute
    """: "Mute",
    """
    class Lying(BaseException):
        def __str__(self):
            return 7
    raise Lying
    """: "Lying",
    # values that cannot be stored
    "result = lambda: 1": "TypeError",
    """
    class Refuses:
        def __reduce__(self):
            raise KeyboardInterrupt
        __repr__ = __reduce__
    result = Refuses()
    """: "TypeError",
    """
    result = []
    for _ in range(100_000):
        result = [result]
    """: "RecursionError",
    # file names that a traceback must not read
    """
    import os, tempfile
    name = tempfile.mktemp()
    os.mkfifo(name)
    exec(compile("raise ValueError('f')", name, "exec"))
    """: "ValueError: f",
    "exec(compile(\"raise ValueError('d')\", '/dev/zero', 'exec'))": "ValueError: d",
    # the streams
    "import os; os.close(1); os.close(2); raise ValueError('v')": "ValueError: v",
    "import sys; sys.stdout = sys.stderr = None; raise ValueError('w')": "ValueError: w",
    # the process
    "import os; os._exit(3)": "it ended with exit code 3",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "killed by SIGSEGV",
    "def f(): f()\nf()": "RecursionError",
}


def ends(program: str) -> Any:
    """Execute some code."""
    import textwrap

    names: dict[str, Any] = {}
    exec(textwrap.dedent(program), names)
    return names.get("result")


def error_of(function: Callable[..., Any], *arguments: Any) -> str:
    try:
        value = delayed(function)(*arguments).run()
    except Exception as error:  # noqa: BLE001 - what it is is looked at
        return str(error)
    raise AssertionError(f"no error, but {value!r}")


@pytest.fixture(scope="module")
def errors(dummy: SeamlessDaskClient) -> Iterator[dict[str, str]]:
    """Of all of them at once: none may hurt another."""
    with ThreadPoolExecutor(len(ENDINGS)) as threads:
        futures = {code: threads.submit(error_of, ends, code) for code in ENDINGS}
        done, late = wait(futures.values(), timeout=SOON)
        assert not late, [code for code, future in futures.items() if future in late]
        yield {code: future.result() for code, future in futures.items()}


@pytest.mark.parametrize("code", ENDINGS)
def test_the_caller_gets_an_error(errors: dict[str, str], code: str) -> None:
    """With the traceback, as a text that can be sent, stored and shown."""
    text = errors[code]
    assert ENDINGS[code] in text.rstrip()[-400:], text[-2000:]
    text.encode("utf-8")
    assert len(text) < 2 * TEXT_LIMIT
    if "exit code" not in text and "killed" not in text:
        assert "Traceback" in text


@pytest.mark.parametrize("code", [code for code in ENDINGS if "10_000" not in code])
def test_so_does_the_caller_of_a_caller(dummy: SeamlessDaskClient, code: str) -> None:
    """The error of a call is an error of the one that calls, unless it is caught."""

    def outer(program):
        from seamless.transformer import direct

        def ends(program):
            import textwrap

            names = {}
            exec(textwrap.dedent(program), names)
            return names.get("result")

        return direct(ends)(program)

    text = error_of(outer, code)
    assert ENDINGS[code] in text.rstrip()[-400:], text[-2000:]


@pytest.mark.parametrize(
    "call", ["pthread_exit(None)", "syscall(60, 0)"], ids=["pthread_exit", "SYS_exit"]
)
def test_a_thread_that_ends_without_python(
    dummy: SeamlessDaskClient, call: str
) -> None:
    """As C code can have it; the process answers, but the job never would."""
    if "syscall" in call and platform.machine() != "x86_64":
        pytest.skip("the call has another number here")
    with ThreadPoolExecutor(1) as threads:
        program = f"import ctypes; ctypes.CDLL(None).{call}"
        error = threads.submit(error_of, ends, program).result(3 * SOON)
    assert "it ended with exit code 1" in error


def test_values_that_no_text_can_hold(dummy: SeamlessDaskClient) -> None:
    """A lone surrogate as an argument, in a result and in that of a call."""

    def outer(text):
        from seamless.transformer import direct

        def inner(text):
            return [text, {"\ud800": text}]

        return direct(inner)(text + "\udfff")

    text = "caf\udce9"
    expected = [text + "\udfff", {"\ud800": text + "\udfff"}]
    assert delayed(outer)(text).run() == expected
