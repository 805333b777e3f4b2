"""What a transformation gives is what its code gives alone, whatever runs beside it.

Each program of ``isolation_programs.py`` 24 times at once, in two Seamless processes of
three slots; expected is what the same functions give in fresh processes (``alone.py``).
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from drivers import isolation_driver
from drivers.isolation_driver import EXAMPLES, arguments, outcomes
from drivers.isolation_programs import C_LIBRARY, PROGRAMS
from helpers.alone import alone
from helpers.stack import RealStack
from seamless.transformer import Transformation, delayed

from seamless_dask import SeamlessDaskClient

pytestmark = pytest.mark.cluster

TOGETHER = 24
#: numbers of the test in which all kinds run together
MIXED = range(TOGETHER, TOGETHER + 2)
#: what programs do most often
OFTEN = {name for name in PROGRAMS if name.startswith(("seed", "pi", "work", "c_lib"))}
OFTEN |= {"environment", "umask", "umask_and_a_call", "c_random", "module_on_the_path"}
#: needs a package that is no dependency
OPTIONAL = {"figures": "matplotlib"}
COMPILER = shutil.which("cc") is not None
CFFI = all(
    importlib.util.find_spec(name) is not None
    for name in ("cffi", "seamless_signature", "setuptools")
)

needs_compiler = pytest.mark.skipif(not COMPILER, reason="needs a C compiler")
needs_cffi = pytest.mark.skipif(
    not (COMPILER and CFFI),
    reason="compiled transformers need a C compiler, cffi and seamless-signature",
)


def possible(name: str) -> bool:
    """Whether a program or an example can run on this machine."""
    if name == "compiled":
        return COMPILER and CFFI
    if name.startswith("c_library"):
        return COMPILER
    return name not in OPTIONAL or importlib.util.find_spec(OPTIONAL[name]) is not None


def kinds(names: Any) -> list[Any]:
    """As parameters, skipped where they are not possible."""
    skip = pytest.mark.skip(reason="needs a package or compiler that is not there")
    return [
        pytest.param(name, marks=[] if possible(name) else [skip]) for name in names
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C library with static variables; its path is nowhere if it cannot be built."""
    folder = tmp_path_factory.mktemp("library")
    source, built = folder / "static.c", folder / "static.so"
    source.write_text(C_LIBRARY)
    if COMPILER:
        command = ["cc", "-shared", "-fPIC", "-o", str(built), str(source)]
        subprocess.run(command, check=True)
    return str(built)


@pytest.fixture(scope="module")
def expected(library: str) -> Iterator[Callable[[str, int], Any]]:
    """What a program gives alone for a number; computed while the cluster starts."""
    calls = [
        (name, number)
        for name in PROGRAMS
        if possible(name)
        for number in range(MIXED.stop)
    ]
    work = [
        (PROGRAMS[name], arguments(name, number, library)) for name, number in calls
    ]
    with ThreadPoolExecutor(1) as executor:
        computed = executor.submit(alone, work)
        yield lambda name, number: computed.result()[calls.index((name, number))]


@pytest.fixture(scope="module")
def dummy(
    expected: Callable[[str, int], Any], dummy: SeamlessDaskClient
) -> SeamlessDaskClient:
    return dummy


def differing(given: dict[Any, Any], expected: dict[Any, Any]) -> dict[Any, Any]:
    """Given and expected, where they are not the same."""
    assert given.keys() == expected.keys()
    return {
        key: {"given": plain(value), "alone": expected[key]}
        for key, value in given.items()
        if plain(value) != expected[key]
    }


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", kinds(PROGRAMS))
def test_each_gives_what_it_gives_alone(
    dummy: SeamlessDaskClient,
    expected: Callable[[str, int], Any],
    library: str,
    name: str,
) -> None:
    """24 of one kind at once."""
    program = delayed(PROGRAMS[name])
    nodes = [program(**arguments(name, i, library)) for i in range(TOGETHER)]
    given = dict(enumerate(outcomes(nodes)))
    assert not differing(given, {i: expected(name, i) for i in range(TOGETHER)})


def test_all_kinds_together_give_what_they_give_alone(
    dummy: SeamlessDaskClient, expected: Callable[[str, int], Any], library: str
) -> None:
    """Each after others, and beside others."""
    calls = [(name, i) for i in MIXED for name in PROGRAMS if possible(name)]
    nodes = [
        delayed(PROGRAMS[name])(**arguments(name, i, library)) for name, i in calls
    ]
    given = dict(zip(calls, outcomes(nodes), strict=True))
    assert not differing(given, {call: expected(*call) for call in calls})


@pytest.mark.parametrize("name", kinds(EXAMPLES))
def test_examples_give_what_is_known(dummy: SeamlessDaskClient, name: str) -> None:
    """The example of the documentation; shipped modules; C with static variables."""
    make, known = EXAMPLES[name]
    given = dict(enumerate(outcomes([make(i) for i in range(TOGETHER)])))
    assert not differing(given, {i: known(i) for i in range(TOGETHER)})


def test_modules_of_one_do_not_reach_others(dummy: SeamlessDaskClient) -> None:
    """Beside and after transformations with shipped modules nobody sees them."""

    def look(number):
        import sys
        import time

        time.sleep(0.01)
        return [number, *(name for name in sys.modules if "shipped_module" in name)]

    make, known = EXAMPLES["shipped"]
    numbers = range(TOGETHER, TOGETHER + 24)
    nodes = [tf for i in numbers for tf in (make(i), delayed(look)(i))]
    given = outcomes(nodes)
    assert given[1::2] == [[i] for i in numbers]
    assert given[::2] == [known(i) for i in numbers]


# -- C code that is compiled by the cluster ------------------------------------------


def nested_compilation(number: int, salt: str) -> Transformation:
    """A transformation that has C code compiled, and calls it."""

    def calls(number, salt, schema, source):
        from seamless.transformer import CompiledTransformer

        transformer = CompiledTransformer("c")
        transformer.schema = schema
        transformer.code = f"{source}/* {salt} */\n"
        return int(transformer(a=number).run())

    schema, source = isolation_driver.COMPILED_SCHEMA, isolation_driver.COMPILED_CODE
    return delayed(calls)(number, salt, schema, source)


@needs_cffi
def test_compiling_the_same_source_at_once(dummy: SeamlessDaskClient) -> None:
    """24 top-level and 6 nested ones of a new source; then others of a source in use."""
    for begin in (0, 100):  # cold, warm
        numbers = range(begin, begin + TOGETHER)
        nodes = [isolation_driver.compiled(i, "at once") for i in numbers]
        assert outcomes(nodes) == [1000 + i for i in numbers]
        numbers = range(begin + 50, begin + 56)
        nodes = [nested_compilation(i, "nested") for i in numbers]
        assert outcomes(nodes) == [1000 + i for i in numbers]


# -- processes that transformations start --------------------------------------------


def pool(number):
    import multiprocessing

    with multiprocessing.Pool(2) as processes:
        return processes.map(abs, [-number, number + 1])


def executor(number, method):
    import math
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        return list(processes.map(math.factorial, [number, number + 1]))


def fork(number):
    import os

    pid = os.fork()
    if pid == 0:
        os._exit(number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(number):
    import subprocess
    import sys

    code = f"import random; random.seed({number}); print(random.random())"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def processes_and_calls(number):
    """A nested call between the start of processes and their use, and in the call."""
    import math
    from concurrent.futures import ProcessPoolExecutor

    from seamless.transformer import direct

    def nested(number):
        import multiprocessing

        with multiprocessing.Pool(1) as processes:
            return processes.map(abs, [-number])

    with ProcessPoolExecutor(1) as processes:
        first = processes.submit(math.factorial, number).result()
        called = direct(nested)(number)
        return [first, called, processes.submit(math.factorial, 3).result()]


def jobs(number):
    from joblib import Parallel
    from joblib import delayed as later

    return Parallel(n_jobs=2)(later(abs)(-i) for i in range(number, number + 4))


CHILDREN: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (pool, {}),
    *((executor, {"method": how}) for how in ("fork", "spawn", "forkserver")),
    (fork, {}),
    (command, {}),
    (processes_and_calls, {}),
]


@pytest.mark.parametrize(
    ("function", "options"),
    CHILDREN,
    ids=[function.__name__ + "".join(o.values()) for function, o in CHILDREN],
)
def test_transformations_may_start_processes(
    dummy: SeamlessDaskClient, function: Callable[..., Any], options: dict[str, Any]
) -> None:
    """As the same function alone, several at once."""
    calls = [{"number": number, **options} for number in range(4)]
    given = outcomes([delayed(function)(**call) for call in calls])
    assert given == alone([(function, call) for call in calls])


def test_joblib(dummy: SeamlessDaskClient) -> None:
    """It keeps its processes for the next time; they end with the transformation."""
    pytest.importorskip("joblib")
    given = outcomes([delayed(jobs)(i) for i in range(4)])
    assert given == [list(range(i, i + 4)) for i in range(4)]


def test_the_usual_start_method(dummy: SeamlessDaskClient) -> None:
    """That of this Python; with "fork", functions need not be importable."""

    def usual(number):
        import multiprocessing

        receiver, sender = multiprocessing.Pipe(duplex=False)
        method = multiprocessing.get_start_method()
        if method == "fork":
            process = multiprocessing.Process(target=lambda: sender.send(number + 1))
            process.start()
            process.join()
            return [method, receiver.recv()]
        return [method, number + 1]

    default = multiprocessing.get_all_start_methods()[0]
    assert outcomes([delayed(usual)(i) for i in range(4)]) == [
        [default, i + 1] for i in range(4)
    ]


def test_a_forked_process_calls_no_transformation(dummy: SeamlessDaskClient) -> None:
    """It would wait for ever; it is told so, and its parent goes on."""

    def forks(number):
        import os

        from seamless.transformer import delayed, direct

        def nested(number):
            return number + 1

        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            texts = []
            for call in (direct(nested), lambda i: delayed(nested)(i).start().run()):
                try:
                    texts.append(repr(call(number)))
                except Exception as error:  # noqa: BLE001
                    texts.append(str(error))
            os.write(writer, " | ".join(texts).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(pid, 0)
        said = os.read(reader, 10_000).decode()
        return [said.count("cannot call transformations"), direct(nested)(number)]

    assert outcomes([delayed(forks)(i) for i in range(3)]) == [
        [2, i + 1] for i in range(3)
    ]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_that_were_ended_are_not_complained_about(
    dummy: SeamlessDaskClient, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also not about what multiprocessing itself keeps running."""
    with caplog.at_level("WARNING", "seamless_dask"):
        assert outcomes([delayed(executor)(5, method)]) == [[120, 720]]
    assert "left running" not in caplog.text


# -- on the real stack ---------------------------------------------------------------


def test_what_is_stored_is_what_the_code_gives_alone(
    real_stack: RealStack, expected: Callable[[str, int], Any], library: str
) -> None:
    """All kinds together, most often 24 of each; a second driver executes none."""
    counts = {
        name: TOGETHER if name in OFTEN or name in EXAMPLES else 6
        for name in (*PROGRAMS, *EXAMPLES)
        if possible(name)
    }
    known = {
        name: [
            expected(name, i) if name in PROGRAMS else EXAMPLES[name][1](i)
            for i in range(count)
        ]
        for name, count in counts.items()
    }
    stored = []
    for _driver in range(2):
        driver = real_stack.run(
            isolation_driver.__file__, json.dumps([counts, library]), timeout=270
        )
        given = driver.value
        assert given.keys() == known.keys()
        wrong = {
            name: differing(dict(enumerate(given[name])), dict(enumerate(known[name])))
            for name in counts
        }
        assert not {name: values for name, values in wrong.items() if values}
        stored.append(real_stack.stored())
    assert stored[0] == stored[1], "the second driver executed something"
