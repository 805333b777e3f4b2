"""What seamless-transformer offers, used on the cluster: ``python features.py NAME``.

Each function is a driver script of its own. It asserts what it finds, so a script that
ends without an error has found everything right. All inputs depend on ``salt``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import seamless
import seamless.config
from seamless import Buffer, Checksum
from seamless.transformer import Transformation, delayed, direct, parallel
from seamless_transformer.transformation_class import TransformationError

# also as a script
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.polling import wait_until

# -- dependencies --------------------------------------------------------------------


def diamond(salt: str) -> None:
    """A result that two others need is computed once, in whatever order they run."""

    def source(salt, path):
        with open(path, "a") as log:
            log.write("source\n")
        return 1

    def left(value):
        return value + 10

    def right(value):
        return value + 100

    def join(a, b):
        return a, b

    for order in ("down", "up", "together"):
        log = Path(tempfile.mkdtemp()) / "log"
        top = delayed(source)(f"{salt}{order}", str(log))
        nodes = [delayed(left)(top), delayed(right)(top)]
        bottom = delayed(join)(*nodes)
        if order == "up":
            for node in (*nodes, top):
                node.start()
        elif order == "together":
            loop = asyncio.new_event_loop()
            tasks = [loop.create_task(n._run()) for n in (bottom, *nodes, top)]
            loop.run_until_complete(asyncio.gather(*tasks))
            loop.close()
        assert bottom.run() == [11, 101]
        assert [node.run() for node in (top, *nodes)] == [1, 11, 101]
        assert log.read_text() == "source\n", order


def shared_dependency(salt: str) -> None:
    """Fifty transformations that need the same one."""

    def source(salt):
        return 7

    def times(value, i):
        return value * i

    top = delayed(source)(salt)
    nodes = [delayed(times)(top, i) for i in range(50)]
    assert [tf.run() for tf in parallel(nodes)] == [7 * i for i in range(50)]
    assert top.status == "Status: OK"


def failing_dependency(salt: str) -> None:
    """All that depend on it name it; what does not need it is computed."""

    def broken(salt):
        raise ValueError("trouble " + salt)

    def sound(salt):
        return 5

    def both(a, b):
        return a

    bad, good = delayed(broken)(salt), delayed(sound)(salt)
    first = delayed(both)(bad, good)
    second = delayed(both)(good, first)
    assert second.compute() is None
    assert second.exception.startswith("Dependency 'b' has an exception:\n")
    assert f"ValueError: trouble {salt}" in second.exception
    assert f"ValueError: trouble {salt}" in first.exception
    assert f"ValueError: trouble {salt}" in bad.exception
    assert good.run() == 5


def local_dependency(salt: str) -> None:
    """A transformation of this process feeds one of the cluster, and the reverse."""

    def pid(salt):
        import os

        return os.getpid()

    def both(value, salt):
        import os

        return value, os.getpid()

    import os

    here = delayed(pid)
    here.local = True
    there = delayed(both)
    first, second = there(here(salt), salt).run()
    assert first == os.getpid() != second
    back = delayed(both)
    back.local = True
    value, mine = back(delayed(pid)(f"{salt}/back"), salt).run()
    assert value != os.getpid() == mine


def compiled(salt: str) -> None:
    """C code, compiled in a Seamless process; alone, and fed by another."""
    from seamless.transformer import CompiledTransformer

    def source(salt):
        return 20

    transformer = CompiledTransformer("c")
    transformer.schema = """
inputs:
  - {name: a, dtype: int32}
  - {name: b, dtype: int32}
outputs:
  - {name: result, dtype: int32}
"""
    transformer.code = """
#include <stdint.h>
int transform(int32_t a, int32_t b, int32_t *result) {
    *result = 100 * a + b;
    return 0;
}
"""
    assert int(transformer(a=2, b=3).run()) == 203
    assert int(transformer(a=delayed(source)(salt), b=4).run()) == 2004


# -- values --------------------------------------------------------------------------


def celltypes(salt: str) -> None:
    """Each celltype arrives as what it is, and its result too."""

    def same(value, salt):
        return value

    def content(value, salt):
        return value.content if hasattr(value, "content") else value

    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    structured = np.zeros(3, np.dtype([("a", "<i4"), ("b", "<f8")], align=True))
    for celltype, value in (
        ("plain", {"a": [1, None, True, "x"], "b": {}}),
        ("plain", None),
        ("text", "line\nline"),
        ("text", ""),
        ("str", "é"),
        ("int", 3),
        ("float", 0.5),
        ("bool", True),
        ("bytes", b"\x00\xff" * 10),
        ("bytes", b""),
        ("binary", array),
        ("binary", structured),
        ("mixed", {"a": array, "b": "text"}),
        ("mixed", []),
        ("mixed", {}),
    ):
        transformer = delayed(content if celltype == "bytes" else same)
        transformer.celltypes.value = celltype
        transformer.celltypes.result = celltype
        transformation = transformer(value, f"{salt}{celltype}{value!r}")
        try:
            result = transformation.run()
        except TransformationError as exc:
            # A function that returns None has no result, in whatever way it runs.
            assert value is None, (celltype, value, exc)
            continue
        if isinstance(value, bytes):
            result = getattr(result, "content", result)
        np.testing.assert_equal(result, value, err_msg=f"{celltype} {value!r}")


def big_arrays(salt: str) -> None:
    """Eight megabytes there and back, through a dependency."""

    def make(salt, n):
        import numpy as np

        return np.arange(n, dtype=np.float64)

    def double(array):
        return array * 2

    make_, double_ = delayed(make), delayed(double)
    make_.celltypes.result = double_.celltypes.array = "binary"
    double_.celltypes.result = "binary"
    result = double_(make_(salt, 1_000_000)).run()
    np.testing.assert_array_equal(result, np.arange(1_000_000) * 2.0)


def deep(values: dict[str, Any], celltype: str) -> dict[str, Any]:
    """The values as checksums, their buffers on the hashserver."""
    buffers = {name: Buffer(value, celltype) for name, value in values.items()}
    for buffer in buffers.values():
        assert asyncio.run(buffer.write())
    return {name: buffer.get_checksum() for name, buffer in buffers.items()}


def folders(salt: str) -> None:
    """A folder as the input of bash and of Python, and as a result."""
    transformer = delayed("cat data/a data/sub/b > RESULT", "bash")
    transformer.celltypes.data = "folder"
    transformer.celltypes.result = "text"
    folder = deep({"a": f"first {salt}\n".encode(), "sub/b": b"second\n"}, "bytes")
    assert transformer(data=folder).run() == f"first {salt}\nsecond"

    def keys(data, salt):
        return sorted(data)

    transformer = delayed(keys)
    transformer.celltypes.data = "folder"
    assert transformer(folder, salt).run() == ["a", "sub/b"]

    transformer = delayed("mkdir RESULT; echo $salt > RESULT/x; echo 2 > RESULT/y")
    transformer.language = "bash"
    transformer.celltypes.salt = "str"
    transformer.celltypes.result = "folder"
    result = transformer(salt=salt).run()
    assert sorted(result) == ["x", "y"]


def deepcells(salt: str) -> None:
    """An input that is a dictionary of checksums."""

    def total(cells, salt):
        return sum(cell.resolve("mixed") for cell in cells.values())

    transformer = delayed(total)
    transformer.celltypes.cells = "deepcell"
    assert transformer(deep({"a": 1, "b": 20}, "mixed"), salt).run() == 21


def modules_and_globals(salt: str) -> None:
    """Source code that travels along."""
    helpers = types.ModuleType("helpers")
    path = Path(tempfile.mkdtemp()) / "helpers.py"
    path.write_text("OFFSET = 1000\n\ndef shift(value):\n    return value + OFFSET\n")
    helpers.__file__ = str(path)
    exec(compile(path.read_text(), str(path), "exec"), helpers.__dict__)

    def use(value, salt):
        from .helpers import shift

        return shift(value)

    transformer = delayed(use)
    transformer.modules.helpers = helpers
    assert transformer(5, salt).run() == 1005

    def use_global(value, salt):
        return value * FACTOR  # noqa: F821

    transformer = delayed(use_global)
    transformer.globals.FACTOR = 3
    assert transformer(7, salt).run() == 21


# -- ways to run ---------------------------------------------------------------------


def orders(salt: str) -> None:
    """Start, compute, run and construct, in all orders, each more than once."""

    def square(salt, i):
        return i * i

    steps: dict[str, Callable[[Transformation], Any]] = {
        "start": lambda tf: tf.start(),
        "compute": lambda tf: tf.compute(),
        "run": lambda tf: tf.run(),
        "construct": lambda tf: tf.construct(),
    }
    number = 0
    for first in steps:
        for second in steps:
            for third in steps:
                number += 1
                transformation = delayed(square)(salt, number)
                for step in (first, second, third):
                    steps[step](transformation)
                assert transformation.run() == number**2, (first, second, third)
                assert transformation.status == "Status: OK"


def threads(salt: str) -> None:
    """Each thread its own transformation; then all of them the same object."""

    def square(salt, i):
        return i * i

    def cube(salt, i):
        import time

        time.sleep(0.1)
        return i**3

    with ThreadPoolExecutor(16) as executor:
        nodes = [delayed(square)(salt, i) for i in range(48)]
        assert list(executor.map(lambda tf: tf.run(), nodes)) == [
            i * i for i in range(48)
        ]
        for how in ("run", "compute"):
            shared = delayed(cube)(f"{salt}{how}", 5)
            found = list(
                executor.map(lambda tf, how=how: getattr(tf, how)(), [shared] * 8)
            )
            assert len(set(found)) == 1
            assert shared.run() == 125


def started_in_a_thread(salt: str) -> None:
    """Started in a thread without an event loop, run in another."""

    def square(salt, i):
        return i * i

    nodes = [delayed(square)(salt, i) for i in range(10)]

    def start() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        for node in nodes:
            node.start()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    wait_until(lambda: all(n._result_checksum for n in nodes), "they end by themselves")
    assert [node.run() for node in nodes] == [i * i for i in range(10)]


def running_loop(salt: str) -> None:
    """In coroutines, as in Jupyter: await everything, start first or not."""

    def square(salt, i):
        return i * i

    async def main() -> None:
        assert await delayed(square)(salt, 3).task() == 9
        assert await delayed(square)(salt, 4).computation() is not None
        started = [delayed(square)(salt, i).start() for i in range(10, 20)]
        assert [await tf.task() for tf in started] == [i * i for i in range(10, 20)]
        constructed = delayed(square)(salt, 30)
        await constructed.construction()
        assert not await constructed.is_cached_async()
        assert await constructed.task() == 900
        assert await constructed.is_cached_async()
        # The same object twice at a time, on one loop.
        shared = delayed(square)(salt, 31)
        assert await asyncio.gather(shared.task(), shared.task()) == [961, 961]

    asyncio.run(main())
    # A loop that has ended is no obstacle for the next one.
    asyncio.run(main_again(salt, square))


async def main_again(salt: str, function: Any) -> None:
    assert await delayed(function)(salt, 50).task() == 2500


def parallel_forms(salt: str) -> None:
    """``parallel`` and ``parallel_async``, with few and many at a time."""
    import seamless_config
    from seamless.transformer import TransformationList, parallel_async

    def square(salt, i):
        if i == 13:
            raise ValueError("thirteen")
        return i * i

    expected = [None if i == 13 else i * i for i in range(30)]
    for nparallel in (1, 7, 100):
        seamless_config.set_nparallel(nparallel)
        nodes = [delayed(square)(f"{salt}{nparallel}", i) for i in range(30)]
        found = []
        for tf in parallel(TransformationList(nodes, show_progress=False)):
            found.append(None if tf.exception else tf.run())
        assert found == expected, found

    async def main() -> list[Any]:
        nodes = [delayed(square)(f"{salt}/async", i) for i in range(30)]
        return [
            None if tf.exception else await tf.task()
            async for tf in parallel_async(nodes)
        ]

    assert asyncio.run(main()) == expected
    # Somebody who stops in the middle.
    nodes = [delayed(square)(f"{salt}/stop", i) for i in range(100, 200)]
    iterator = iter(parallel(nodes))
    assert next(iterator).run() == 10_000
    iterator.close()
    assert delayed(square)(f"{salt}/stop", 500).run() == 250_000


def many_tasks(salt: str) -> None:
    """Two hundred at a time on one event loop."""

    def square(salt, i):
        return i * i

    async def main() -> list[int]:
        return await asyncio.gather(
            *(delayed(square)(salt, i).task() for i in range(200))
        )

    assert asyncio.run(main()) == [i * i for i in range(200)]


def cancelled_tasks(salt: str) -> None:
    """Cancelling some tasks leaves the others alone, and slots are free again."""

    def slow(i, folder):
        import time
        from pathlib import Path

        (Path(folder) / str(i)).touch()
        time.sleep(1000 if i % 2 else 0.2)
        return i

    folder = Path(f"cancelled-{salt}").absolute()
    folder.mkdir()

    async def main() -> None:
        nodes = [delayed(slow)(i, str(folder)) for i in range(20)]
        tasks = [node.task() for node in nodes]
        # They run in whatever order they have got there.
        while not any(int(path.name) % 2 for path in folder.iterdir()):
            await asyncio.sleep(0.01)
        for task in tasks[1::2]:
            task.cancel()
        values = await asyncio.gather(*tasks, return_exceptions=True)
        assert values[::2] == list(range(0, 20, 2))
        assert all(isinstance(v, asyncio.CancelledError) for v in values[1::2])
        assert all(node.status == "Status: canceled" for node in nodes[1::2])

    asyncio.run(asyncio.wait_for(main(), 60))


def garbage(salt: str) -> None:
    """Dropping transformations that run harms nobody else."""

    def square(salt, i, path):
        import time

        time.sleep(0.05)
        return i * i

    for round_number in range(3):
        dropped = [delayed(square)(salt, i, "") for i in range(20)]
        kept = [delayed(square)(salt, i, "") for i in range(10)]
        for node in (*dropped, *kept):
            node.start()
        del dropped, node
        gc.collect()
        assert [tf.run() for tf in kept] == [i * i for i in range(10)], round_number


def direct_transformers(salt: str) -> None:
    """They return values, take results of others, and raise."""

    @direct
    def add(a, b, salt):
        if a == b:
            raise ValueError("the same " + salt)
        return a + b

    assert add(1, 2, salt) == 3
    assert add(delayed(add)(1, 2, salt), 4, salt) == 7
    try:
        add(3, 3, salt)
    except TransformationError as exc:
        assert f"ValueError: the same {salt}" in str(exc)
    else:
        raise AssertionError("no exception")
    # In a process of the cluster as well.

    def outer(salt):
        from seamless.transformer import direct

        def fails(salt):
            raise ValueError("inner " + salt)

        try:
            direct(fails)(salt)
        except RuntimeError as exc:
            return "inner " + salt in str(exc)

    assert delayed(outer)(salt).run() is True


def optional(salt: str) -> None:
    """``local = None``: here or there, the values are the same."""

    def square(salt, i):
        return i * i

    transformer = delayed(square)
    transformer.local = None
    nodes = [transformer(salt, i) for i in range(30)]
    assert [tf.run() for tf in parallel(nodes)] == [i * i for i in range(30)]


def scratch(salt: str) -> None:
    """Its value is not stored; it can be had, and used by others."""

    def make(salt, n):
        return salt * n

    def length(text):
        return len(text)

    transformer = delayed(make)
    transformer.scratch = True
    top = transformer(salt, 50_000)
    assert delayed(length)(top).run() == 50_000 * len(salt)
    assert top.run() == salt * 50_000
    alone = transformer(salt, 60_000)
    checksum = alone.compute()
    assert alone.run() == salt * 60_000
    print(json.dumps(checksum.hex()))


def printing(salt: str) -> None:
    """Each error shows what its own transformation has printed, and no other's."""

    def talk(salt, i):
        import time

        for _ in range(10):
            print(f"I am {i}")
            time.sleep(0.01)
        if i % 5 == 0:
            raise ValueError(i)
        return i

    nodes = [delayed(talk)(salt, i).start() for i in range(40)]
    for i, node in enumerate(nodes):
        node.compute()
        if i % 5:
            assert node.run() == i
        else:
            lines = [x for x in node.exception.splitlines() if x.startswith("I am")]
            assert lines == [f"I am {i}"] * 10, node.exception


def is_cached(salt: str) -> None:
    """Not before, but after; also of a transformation with dependencies."""

    def add(a, b, salt):
        return a + b

    first = delayed(add)(1, 2, salt)
    assert not first.is_cached()
    second = delayed(add)(first, 10, salt)
    assert second.run() == 13
    assert first.is_cached()
    assert delayed(add)(3, 10, salt).is_cached()


def loops(salt: str) -> None:
    """What calls have in common is uploaded once, through connections that stay."""
    import psutil
    from seamless_remote import buffer_remote
    from seamless_remote.buffer_client import BufferClient

    def add(a, b, salt):
        return a + b

    uploads: list[str] = []
    write, promise = BufferClient.write, BufferClient.promise

    async def counted_write(self: Any, checksum: Any, buffer: Any) -> Any:
        uploads.append(checksum.hex())
        return await write(self, checksum, buffer)

    async def no_promise(self: Any, checksum: Any) -> Any:
        raise AssertionError(f"small buffer {checksum} was promised")

    (client,) = buffer_remote._write_server_clients
    port = int(client.url.rsplit(":", 1)[1])
    ports: set[int] = set()
    BufferClient.write, BufferClient.promise = counted_write, no_promise
    try:
        for i in range(20):
            assert direct(add)(i, 1000, salt) == i + 1000
            ports |= {
                connection.laddr.port
                for connection in psutil.Process().net_connections()
                if connection.raddr and connection.raddr.port == port
            }
    finally:
        BufferClient.write, BufferClient.promise = write, promise
    assert len(uploads) == len(set(uploads)), "uploaded twice"
    # each call has an input and a transformation of its own, which go together
    assert len(uploads) <= 2 * 20 + 4
    # the first call writes all of its buffers at once
    assert len(ports) <= 10, ports


def stages(salt: str) -> None:
    """Another stage is another cluster and another storage, in the same driver."""

    def add(a, b, salt):
        return a + b

    def outer(a, salt):
        from seamless.transformer import direct

        def inner(a, salt):
            return a + 1

        return direct(inner)(a, salt) + 1

    assert delayed(add)(1, 2, salt).run() == 3
    first = get_address()
    seamless.config.set_stage("second", workdir=".")
    assert get_address() != first
    again = delayed(add)(1, 2, salt)
    assert not again.is_cached()
    assert again.run() == 3
    assert all(lengths_on_hashserver(again)), "the first stage has them all"
    assert delayed(outer)(1, salt).run() == 3
    seamless.config.set_stage(None, workdir=".")
    assert get_address() == first
    assert delayed(add)(1, 2, salt).is_cached()
    assert not delayed(outer)(1, salt).is_cached()
    assert delayed(outer)(1, salt).run() == 3


def lengths_on_hashserver(transformation: Transformation[Any]) -> list[int | None]:
    """The lengths of a transformation and of its inputs, None if it has not got one."""
    from seamless_remote import buffer_remote

    from seamless_dask.neighbours import transformation as definition
    from seamless_dask.neighbours.pins import checksums_in

    used = checksums_in(definition.prepared(transformation)[0])
    used.append(transformation.transformation_checksum.hex())
    return asyncio.run(buffer_remote.get_buffer_lengths(list(map(Checksum, used))))


def get_address() -> str:
    from seamless_dask import get_seamless_dask_client

    client = get_seamless_dask_client()
    assert client is not None
    return str(client.client.scheduler.address)


def closing(salt: str) -> None:
    """``seamless.close()`` ends the driver's part, at once and twice."""

    def slow(salt):
        import time

        time.sleep(60)

    delayed(slow)(salt).start()
    seamless.close()
    seamless.close()
    try:
        delayed(slow)(salt).run()
    except RuntimeError:
        pass
    else:
        raise AssertionError("closed, and yet it computes")


# -- bash and commands ---------------------------------------------------------------


def bash(salt: str) -> None:
    """Pins as files and variables, results as text and bytes, errors with output."""
    transformer = delayed("cat file > RESULT; echo $word $number >> RESULT", "bash")
    transformer.celltypes.file = "bytes"
    transformer.celltypes.word = "str"
    transformer.celltypes.number = "int"
    transformer.celltypes.result = "text"
    made = transformer(file=b"content\n", word=salt, number=3)
    assert made.run() == f"content\n{salt} 3", repr(made.run())

    def source(salt):
        return salt * 3

    transformer = delayed("tr a-z A-Z < text > RESULT", "bash")
    transformer.celltypes.text = "text"
    transformer.celltypes.result = "text"
    assert transformer(text=delayed(source)(salt)).run() == (salt * 3).upper()

    transformer = delayed("echo seen; echo trouble >&2; echo $salt; exit 4", "bash")
    transformer.celltypes.salt = "str"
    failing = transformer(salt=salt)
    assert failing.compute() is None
    for part in ("Return code 4", "trouble", "seen", salt):
        assert part in failing.exception, failing.exception


def bash_keeps_to_its_slots(salt: str) -> None:
    """More at once than there are slots: they wait for their turn, and all end."""
    folder = Path(tempfile.mkdtemp())
    code = """
touch $folder/running-$i
ls $folder | grep -c running > $folder/seen-$i
sleep 0.2
rm $folder/running-$i
echo $i > RESULT
"""
    transformer = delayed(code, "bash")
    transformer.celltypes.folder = transformer.celltypes.i = "str"
    transformer.celltypes.result = "int"
    nodes = [transformer(folder=str(folder), i=str(i)) for i in range(24)]
    assert [tf.run() for tf in parallel(nodes)] == list(range(24))
    seen = [int(path.read_text()) for path in folder.glob("seen-*")]
    assert len(seen) == 24
    assert 1 < max(seen) <= 6, seen


def bash_in_bash(salt: str, n: int = 1) -> None:
    """``seamless-run`` inside bash transformations that run on the cluster."""
    code = """
seamless-run -q --yes -g1 echo inner-$salt-$i > out.txt 2>&1 || { cat out.txt >&2; exit 1; }
cp out.txt RESULT
"""
    transformer = delayed(code, "bash")
    transformer.celltypes.salt = transformer.celltypes.i = "str"
    transformer.celltypes.result = "text"
    nodes = [transformer(salt=salt, i=str(i)) for i in range(n)]
    values = [tf.exception or tf.run() for tf in parallel(nodes)]
    assert values == [f"inner-{salt}-{i}" for i in range(n)], values


def bash_tree(salt: str) -> None:
    """``seamless-run`` of a command that calls ``seamless-run``: three levels."""
    code = """
cat > inner.sh <<'END'
seamless-run -q --yes -g1 echo deep-$1 2>&1
END
seamless-run -q --yes -g1 bash inner.sh $name > out.txt 2>&1 || { cat out.txt >&2; exit 1; }
cp out.txt RESULT
"""
    transformer = delayed(code, "bash")
    transformer.celltypes.name = "str"
    transformer.celltypes.result = "text"
    nodes = [transformer(name=f"{salt}-{i}") for i in range(6)]
    values = [tf.exception or tf.run() for tf in parallel(nodes)]
    assert values == [f"deep-{salt}-{i}" for i in range(6)], values


def command_in_python(salt: str) -> None:
    """``seamless-run`` in processes that Python functions start, more than slots."""

    def call(salt, i):
        import subprocess

        return subprocess.run(
            ["seamless-run", "-q", "--yes", "-g1", "echo", f"py-{salt}-{i}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ).stdout

    nodes = [delayed(call)(salt, i) for i in range(8)]
    values = [tf.exception or tf.run() for tf in parallel(nodes)]
    assert values == [f"py-{salt}-{i}\n" for i in range(8)], values


def command(*words: str, **options: Any) -> str:
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout


def commands(salt: str) -> None:
    """The command line: run with files, run by checksum, resolve, download."""
    project = Path(f"commands-{salt}")
    project.mkdir()
    for name in ("seamless.yaml", "seamless.profile.yaml"):
        (project / name).write_text(Path(name).read_text())
    (project / "input.txt").write_text(f"b {salt}\na {salt}\n")
    options = {"cwd": str(project)}
    command("seamless-run", "--yes", "sort input.txt > output.txt", **options)
    assert (project / "output.txt").read_text() == f"a {salt}\nb {salt}\n"

    def length(text):
        return len(text)

    transformation = delayed(length)("x" + salt)
    tf_checksum = transformation.construct()
    assert tf_checksum is not None
    assert transformation.run() == 1 + len(salt)
    result = command("seamless-run-transformation", tf_checksum.hex(), **options)
    checksum = transformation.result_checksum.hex()
    assert result.split()[-1] == checksum
    assert command("seamless-resolve", checksum, **options).strip() == str(
        1 + len(salt)
    )
    assert command("seamless-fingertip", checksum, **options).strip() == str(
        1 + len(salt)
    )
    (project / "value.CHECKSUM").write_text(checksum + "\n")
    command("seamless-download", "--yes", "value", **options)
    assert (project / "value").read_text().strip() == str(1 + len(salt))


def queue(salt: str) -> None:
    """``seamless-queue`` runs what was submitted to it, several at a time."""
    project = Path(f"queue-{salt}")
    project.mkdir()
    for name in ("seamless.yaml", "seamless.profile.yaml"):
        (project / name).write_text(Path(name).read_text())
    options = {"cwd": str(project)}
    for i in range(5):
        words = ["seamless-run", "--qsub", "--yes", f"echo {salt}{i} > out{i}"]
        command(*words, **options)
    server = subprocess.Popen(["seamless-queue", "-q"], **options)
    try:
        command("seamless-queue-finish", **options)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
    for i in range(5):
        assert (project / f"out{i}").read_text() == f"{salt}{i}\n"


FEATURES: dict[str, Callable[[str], None]] = {
    function.__name__: function
    for function in (
        diamond,
        shared_dependency,
        failing_dependency,
        local_dependency,
        compiled,
        celltypes,
        big_arrays,
        folders,
        deepcells,
        modules_and_globals,
        orders,
        threads,
        started_in_a_thread,
        running_loop,
        parallel_forms,
        many_tasks,
        cancelled_tasks,
        garbage,
        direct_transformers,
        optional,
        scratch,
        printing,
        is_cached,
        loops,
        stages,
        closing,
        bash,
        bash_keeps_to_its_slots,
        bash_in_bash,
        bash_tree,
        command_in_python,
        commands,
        queue,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", choices=sorted(FEATURES))
    parser.add_argument("arguments", nargs="?", default="{}", type=json.loads)
    parser.add_argument("--salt", default="salt")
    args = parser.parse_args()
    # The configuration is that of the current folder, not of this file's.
    seamless.config.init(workdir=".")
    FEATURES[args.name](args.salt, **args.arguments)
    seamless.close()


if __name__ == "__main__":
    main()
