"""Cases for ``test_semantics.py`` as driver scripts: ``python semantics.py NAME``.

Each prints what it has seen, as JSON; the test says what it should be.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import seamless
import seamless.config
from seamless import Buffer, Checksum
from seamless.transformer import delayed

from seamless_dask import get_seamless_dask_client
from seamless_dask.submit.tasks import WORKER_PLUGIN

# also as a script
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.polling import wait_until

Seen = dict[str, Any]


def forget_on_worker(dask_worker: Any) -> int:
    """Empty a worker's memory of buffers: then it is like another worker."""
    runner = dask_worker.plugins[WORKER_PLUGIN]._runner.result()
    store = runner.buffers
    with store._lock:
        count = len(store._buffers)
        store._buffers.clear()
        store._size = 0
    return count


def forget() -> None:
    client = get_seamless_dask_client()
    assert client is not None
    assert sum(client.client.run(forget_on_worker).values())


def outcome(transformation: Any) -> Seen:
    """Value, or else exception, and checksums."""
    transformation.compute()
    if transformation.exception is not None:
        return {"exception": transformation.exception}
    checksum = transformation.result_checksum.hex()
    return {"value": plain(transformation.run()), "checksum": checksum}


def plain(value: Any) -> Any:
    return value.content.decode() if isinstance(value, Buffer) else value


def numbers_code() -> Any:
    """A transformer of scratch results, large and small; counts its executions."""

    def numbers(n, salt, log):
        with open(log, "a") as executions:
            executions.write("x")
        return list(range(n))

    transformer = delayed(numbers)
    transformer.scratch = True
    return transformer


def total_code() -> Any:
    def total(values, salt):
        return sum(values)

    return delayed(total)


def scratch(n: int) -> Seen:
    """As a result, as input, and as input once nobody has the value any more."""
    with tempfile.NamedTemporaryFile() as log:
        source = numbers_code()(n, f"scratch {n}", log.name)
        seen = {"first": plain(total_code()(source, 1).run())}
        seen["checksum"] = source.result_checksum.hex()
        seen["executions"] = os.path.getsize(log.name)
        forget()
        seen["again"] = plain(total_code()(source, 2).run())
        seen["executions again"] = os.path.getsize(log.name)
        seen["in the driver"] = sum(source.run())
    return seen


def scratch_nested() -> Seen:
    """Within a transformation: its value, and as input of another one."""

    def outer(n):
        from seamless.transformer import delayed

        def numbers(n):
            return list(range(n))

        def total(values):
            return sum(values)

        make = delayed(numbers)
        make.scratch = True
        source = make(n)
        values = source.run()
        checksum = source.result_checksum.hex()
        return [sum(values), delayed(total)(source).run(), checksum]

    small, large = delayed(outer)(100), delayed(outer)(100_000)
    return {"small": small.run(), "large": large.run()}


def scratch_with_nested_work() -> Seen:
    """What a scratch transformation calls is nested work when it runs again, too."""

    def numbers(n, salt):
        from seamless.transformer import delayed

        def number(i, salt):
            return [i] * 10_000

        nodes = [delayed(number)(i, salt) for i in range(n)]
        for node in nodes:
            node.start()
        return [node.run() for node in nodes]

    def total(values, salt):
        return sum(map(sum, values))

    make = delayed(numbers)
    make.scratch = True
    sources = [make(4, salt) for salt in range(12)]
    first = [delayed(total)(source, 1).run() for source in sources]
    forget()
    again = [delayed(total)(source, 2) for source in sources]
    for transformation in again:
        transformation.start()
    return {"first": set_of(first), "again": set_of([t.run() for t in again])}


def set_of(values: list[Any]) -> list[Any]:
    return sorted(set(values))


def input_fingertip() -> Seen:
    """An input given by its checksum, whose buffer is nowhere."""
    with tempfile.NamedTemporaryFile() as log:
        # Too large to come with the result: then the driver would upload it.
        source = numbers_code()(20_000, "fingertip", log.name)
        source.compute()
        forget()
        checksum = Checksum(source.result_checksum.hex())
        refused = outcome(total_code()(checksum, 3))
        allowing = total_code()
        allowing.allow_input_fingertip = True
        return {
            "refused": refused,
            "allowed": outcome(allowing(checksum, 3)),
            "executions": os.path.getsize(log.name),
        }


def require_value() -> Seen:
    """The value is obtainable where it was asked for, also a scratch one."""
    with tempfile.NamedTemporaryFile() as log:
        source = numbers_code()(10, "value", log.name)
        asyncio.run(source.computation(require_value=True))
        return {"value": source.result_checksum.resolve("plain")}


def deep(n: int, size: int) -> Seen:
    """Which members are on the hashserver at the moment of the announcement."""

    def members(n, size):
        import random

        return {str(i): random.Random(i).randbytes(size).hex() for i in range(n)}

    transformer = delayed(members)
    transformer.celltypes.result = "deepcell"
    transformer.meta = {"upload_members": True}
    transformation = transformer(n, size)
    transformation.compute()
    if transformation.exception is not None:
        return {"exception": transformation.exception}
    folder = Path.home() / "seamless" / "buffers" / "demo"
    structure = transformation.result_checksum.resolve("plain")
    missing = [
        c
        for c in structure.values()
        if not (folder / c[:2] / c).is_file() and not (folder / c).is_file()
    ]
    return {"members": len(structure), "missing": missing}


def remote_job() -> Seen:
    """A job that is written instead of run: at the top, and nested."""
    with tempfile.TemporaryDirectory() as directory:
        job = delayed("echo $number > RESULT", "bash")
        job.args.number = "int"
        job.meta = {"write_remote_job": f"{directory}/top"}
        top = outcome(job(number=3))

        def outer(directory):
            from seamless.transformer import delayed

            job = delayed("echo $number > RESULT", "bash")
            job.args.number = "int"
            job.meta = {"write_remote_job": f"{directory}/nested"}
            transformation = job(number=4)
            transformation.compute()
            return transformation.exception

        nested = outcome(delayed(outer)(directory))
        files = sorted(p.name for p in Path(directory, "top").iterdir())
        written = Path(directory, "nested").is_dir()
        text = json.dumps([top, nested]).replace(directory, "DIRECTORY")
        top, nested = json.loads(text)
        return {"top": top, "nested": nested, "files": files, "written": written}


def exceptions() -> Seen:
    """The user's own traceback: at the top, nested, and of a dependency."""

    def wrong(x):
        def deeper():
            raise KeyError(f"no {x}")

        return deeper()

    def outer(x):
        from seamless.transformer import direct

        @direct
        def inner(x):
            return 1 // x

        return inner(x)

    failing = delayed(wrong)(1)

    def use(x):
        return x

    return {
        "top": outcome(failing),
        "nested": outcome(delayed(outer)(0)),
        "dependency": outcome(delayed(use)(delayed(wrong)(2))),
        "settled dependency": outcome(delayed(use)(failing)),
    }


#: what a trivial value is, by celltype
TRIVIAL: list[tuple[str, Any]] = [("bytes", b""), ("plain", {}), ("plain", [])]


def trivial() -> Seen:
    """The empty buffer, ``{}`` and ``[]``: result, input, dependency, nested."""
    seen: Seen = {}
    for number, (celltype, value) in enumerate(TRIVIAL):

        def make(which, salt):
            return [b"", {}, []][which]

        def look(x, salt):
            content = x.content if hasattr(x, "content") else x
            return repr(content)

        def outer(which, celltype):
            from seamless.transformer import delayed

            def make(which, salt):
                return [b"", {}, []][which]

            def look(x, salt):
                content = x.content if hasattr(x, "content") else x
                return repr(content)

            maker, looker = delayed(make), delayed(look)
            maker.celltypes.result = looker.celltypes.x = celltype
            result = maker(which, "nested")
            return [result.run() is not None, looker(result, "nested").run()]

        maker, looker = delayed(make), delayed(look)
        maker.celltypes.result = looker.celltypes.x = celltype
        result = maker(number, "top")
        seen[repr(value)] = {
            "dependency": looker(maker(number, "dependency"), 1).run(),
            "result": plain(result.run()),
            "input": looker(value, 2).run(),
            "settled dependency": looker(result, 3).run(),
            "nested": delayed(outer)(number, celltype).run(),
        }
    return seen


def strict() -> Seen:
    """A strict submission meets one that is under way with another envelope."""

    def waits(gate):
        import os
        import time

        while not os.path.exists(gate):
            time.sleep(0.01)
        return 1

    def variant(mark: str, strict: bool) -> Any:
        transformer = delayed(waits)
        transformer.meta = {"mark": mark}
        transformation = transformer(gate)
        transformation._strict_dunder = strict
        return transformation

    with tempfile.TemporaryDirectory() as directory:
        gate = f"{directory}/gate"
        first = variant("a", False)
        first.start()
        client = get_seamless_dask_client()
        assert client is not None
        checksum = variant("a", False).construct()
        wait_until(lambda: client.get_transformation_futures(checksum), "it is known")
        other = outcome(variant("b", True))
        lenient, same = variant("b", False), variant("a", True)
        lenient.start()
        same.start()
        Path(gate).touch()
        values = [first.run(), lenient.run(), same.run()]
        return {"other": other, "values": values, "later": outcome(variant("b", True))}


def keys_of(prefix: str) -> list[str]:
    client = get_seamless_dask_client()
    assert client is not None

    def keys(dask_scheduler: Any) -> list[str]:
        return [str(key) for key in dask_scheduler.tasks]

    return [k for k in client.client.run_on_scheduler(keys) if k.startswith(prefix)]


def driver(n: int = 40) -> Seen:
    """A driver's nested work: its own tasks, not joined with those of others."""

    def waits(i, gate):
        import os
        import time

        while not os.path.exists(gate):
            time.sleep(0.02)
        return i

    def outer(n, gate):
        from seamless.transformer import delayed

        def waits(i, gate):
            import os
            import time

            while not os.path.exists(gate):
                time.sleep(0.02)
            return i

        nodes = [delayed(waits)(i, gate) for i in range(n)]
        for node in nodes:
            node.start()
        return sum(node.run() for node in nodes)

    with tempfile.TemporaryDirectory() as directory:
        gate = f"{directory}/gate"
        transformer = delayed(outer)
        transformer.driver = True
        main = transformer(n, gate)
        main.start()

        def submitted() -> list[str]:
            return [k for k in keys_of("base_") if k.endswith("-driver")]

        wait_until(lambda: len(submitted()) == n + 1, "tasks of the driver", 30)
        twin = delayed(waits)(0, gate)
        twin.start()
        checksum = delayed(waits)(0, gate).construct().hex()

        def same() -> list[str]:
            """What the keys of its tasks say after the checksum."""
            return [
                key.partition(checksum)[2]
                for key in keys_of("base_")
                if checksum in key
            ]

        wait_until(lambda: len(same()) == 2, "two tasks", 30)
        twins = sorted(same())
        Path(gate).touch()
        return {"value": main.run(), "twin": twin.run(), "keys": twins}


CASES: dict[str, Callable[..., Seen]] = {
    function.__name__: function
    for function in (
        scratch,
        scratch_nested,
        scratch_with_nested_work,
        input_fingertip,
        require_value,
        deep,
        remote_job,
        exceptions,
        trivial,
        strict,
        driver,
    )
}


def main() -> None:
    seamless.config.init(workdir=".")
    begin = time.perf_counter()
    seen = CASES[sys.argv[1]](*map(int, sys.argv[2:]))
    print(f"{time.perf_counter() - begin:.2f} s", file=sys.stderr)
    seamless.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
