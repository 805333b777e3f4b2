"""Everything in one process: dummy scheduler, Seamless processes and driver."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from distributed import Future
from distributed.batched import BatchedSend
from drivers import workloads
from helpers.paths import TESTS
from helpers.polling import wait_until
from seamless import Buffer, Checksum
from seamless.transformer import delayed, direct
from seamless.util.get_event_loop import get_event_loop

from scheduler_ext.reports import METRICS, RESULT
from scheduler_ext.sent_messages import KEPT
from seamless_dask import (
    SeamlessDaskClient,
    get_dummy_scheduler_address,
    get_seamless_dask_client,
    start_dummy_scheduler,
)
from seamless_dask.submit import optional
from seamless_dask.submit import submitter as submitter_module
from seamless_dask.worker.dask_figures import MOST

pytestmark = pytest.mark.cluster


def status(client: SeamlessDaskClient) -> dict[str, Any]:
    return asyncio.run(_status(client))


async def _status(client: SeamlessDaskClient) -> dict[str, Any]:
    return await client.status()


WORKLOADS: list[tuple[str, dict[str, Any]]] = [
    ("independent", {"n": 300}),
    ("run_while_iterating", {"n": 50}),
    ("tree", {"n": 40}),
    ("fan", {"n": 6, "leaves": 20, "how": "start"}),
    ("fan", {"n": 6, "leaves": 20, "how": "parallel"}),
    ("fan", {"n": 6, "leaves": 20, "how": "sequential"}),
    ("recursion", {"n": 40, "depth": 3}),
    ("recursion", {"n": 10, "depth": 6}),
    ("recursion", {"n": 3, "depth": 60}),
    ("chain", {"n": 50}),
    ("big", {"n": 10}),
    *(
        ("pi", {"trials": trials, "driver": driver})
        for trials in (32, 48, 80, 250)
        for driver in (True, False)
    ),
    ("random_trees", {"n": 60, "max_nodes": 20}),
]


@pytest.mark.parametrize(("name", "arguments"), WORKLOADS, ids=str)
def test_workload_ends_with_the_right_values(
    dummy: SeamlessDaskClient, name: str, arguments: dict[str, Any]
) -> None:
    """Nothing hangs, nothing is refused, nothing is held when it is over."""
    before = status(dummy)["permissions"]["refused_total"]
    outcome = workloads.WORKLOADS[name](f"dummy/{json.dumps(arguments)}", **arguments)
    assert outcome["values_ok"], outcome

    def released() -> dict[str, Any] | None:
        state = status(dummy)["permissions"]
        return state if state["admitted"] == state["waiting"] == 0 else None

    assert wait_until(released, "leases end")["refused_total"] == before


def test_a_thousand_tasks_need_no_thousand_threads(dummy: SeamlessDaskClient) -> None:
    """Concurrent `task()`s of one event loop are coroutines all the way."""

    def square(i):
        return i * i

    most = 0

    async def run() -> list[int]:
        nonlocal most
        tasks = [delayed(square)(i).task() for i in range(1000)]
        values = []
        for task in tasks:
            values.append(await task)
            most = max(most, threading.active_count())
        return values

    before = threading.active_count()
    assert get_event_loop().run_until_complete(run()) == [i * i for i in range(1000)]
    assert most < before + 50


def test_ctrl_c_is_not_lost_in_a_callback(dummy: SeamlessDaskClient) -> None:
    """Exceptions in callbacks of the garbage collection are only printed."""
    assert not [each for each in gc.callbacks if "distributed" in str(each.__module__)]


def test_a_transformation_that_waits_for_itself_is_an_error(
    dummy: SeamlessDaskClient,
) -> None:
    """At once, with the cycle, instead of waiting for ever."""

    def own(x):
        from seamless.transformer import direct

        return direct(own)(x)

    def ping(x):
        from seamless.transformer import direct

        return direct(ping)(1 - x)

    for function in (own, ping):
        with pytest.raises(Exception, match="cycle: (own|ping) .* wait for itself"):
            direct(function)(0)


def test_calls_from_threads_of_the_user(dummy: SeamlessDaskClient) -> None:
    """Such a call does not say which transformation makes it; nothing may hang."""

    def threads(n):
        import threading

        from seamless.transformer import direct

        def leaf(n, i):
            return 100 * n + i

        found = {}

        def call(i):
            found[i] = direct(leaf)(n, i)

        running = [threading.Thread(target=call, args=(i,)) for i in range(4)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return sum(found.values())

    transformations = [delayed(threads)(i) for i in range(12)]
    for transformation in transformations:
        transformation.start()
    values = [transformation.run() for transformation in transformations]
    assert values == [400 * n + 6 for n in range(12)]


def test_errors_are_the_users_own_traceback(dummy: SeamlessDaskClient) -> None:
    """Also when a nested transformation raises, and through dependencies."""

    def outer(x):
        from seamless.transformer import direct

        def inner(x):
            raise ValueError(f"inner trouble {x}")

        return direct(inner)(x)

    def identity(x):
        return x

    transformation = delayed(outer)(7)
    assert transformation.compute() is None
    assert "ValueError: inner trouble 7" in transformation.exception
    assert transformation.status == "Status: exception"

    dependent = delayed(identity)(delayed(outer)(8))
    assert dependent.compute() is None
    assert dependent.exception.startswith("Dependency 'x' has an exception:\n")
    assert "ValueError: inner trouble 8" in dependent.exception


def test_a_failed_transformation_runs_again_after_clearing(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """Failed futures are never used again, however long they are cached."""

    def fragile(path):
        from pathlib import Path

        return Path(path).read_text()

    path = tmp_path / "input"
    transformation = delayed(fragile)(str(path))
    transformation.compute()
    assert "FileNotFoundError" in transformation.exception
    path.write_text("there")
    transformation.clear_exception()
    transformation.compute()
    assert transformation.exception is None
    assert transformation.run() == "there"


def test_state_of_upstream_transformations(dummy: SeamlessDaskClient) -> None:
    """What was evaluated on the way knows its checksum and its result."""

    def add(a, b):
        return a + b

    first = delayed(add)(1, 2)
    second = delayed(add)(first, 10)
    assert second.run() == 13
    assert first.status == "Status: OK"
    assert first.run() == 3
    assert isinstance(first.transformation_checksum, Checksum)
    again = delayed(add)(3, 10)
    again.construct()
    assert second.transformation_checksum == again.transformation_checksum


def test_start_submits_in_a_synchronous_script(dummy: SeamlessDaskClient) -> None:
    """Nobody runs the event loop, yet the transformation is computed."""

    def double(x):
        return 2 * x

    transformation = delayed(double)(4321)
    transformation.start()
    finished = wait_until(
        lambda: transformation._result_checksum, "a started transformation ends"
    )
    assert transformation.compute() == finished


def test_work_for_which_the_cluster_is_optional(
    dummy: SeamlessDaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``local = None`` runs on the cluster when there is room, else in this process."""
    monkeypatch.setattr(optional, "PAUSES", (0.05,))

    def wait(gate, i):
        from pathlib import Path

        Path(f"{gate} {i}").touch()
        while not Path(gate).exists():
            pass
        return i

    def where(i):
        import os

        return os.getpid()

    transformer = delayed(where)
    transformer.local = None
    assert transformer(0).run() != os.getpid()
    gate = tmp_path / "gate"
    slots = status(dummy)["permissions"]["capacity"]
    waiting = [delayed(wait)(str(gate), i) for i in range(slots)]
    for each in waiting:
        each.start()

    def permissions() -> dict[str, Any]:
        found: dict[str, Any] = status(dummy)["permissions"]
        return found

    def all_begun() -> bool:
        return all(Path(f"{gate} {i}").exists() for i in range(slots))

    try:
        wait_until(all_begun, "all slots are in use")
        before = status(dummy)
        assert transformer(1).run() == os.getpid(), (slots, before, status(dummy))
        found = wait_until(
            lambda: permissions() if permissions()["fallbacks_total"] else None,
            "the fallback is counted",
        )
        assert found["fallbacks_total"] == 1
        assert found["refused_total"]["capacity"] == 2
    finally:
        gate.touch()
    assert [each.run() for each in waiting] == list(range(slots))
    assert transformer(2).run() != os.getpid()


def test_handles_of_one_caller_do_not_touch_another(
    dummy: SeamlessDaskClient,
) -> None:
    """Releasing, even with cancel, leaves the other's handle alone."""

    def slow(gate):
        from pathlib import Path

        while not Path(gate).exists():
            pass
        return 1

    import tempfile

    gate = Path(tempfile.mkdtemp()) / "gate"
    one, two = delayed(slow)(str(gate)), delayed(slow)(str(gate))
    one.start()
    two.start()
    first = wait_until(lambda: one._dask_futures, "submission of the first")
    second = wait_until(lambda: two._dask_futures, "submission of the second")
    assert first.base.key == second.base.key
    dummy.release_transformation_futures(first, cancel=True)
    assert first.thin.cancelled()
    assert not second.thin.cancelled()
    gate.touch()
    assert second.thin.result(60)[2] is None
    assert two.run() == 1


def test_fat_futures_carry_the_buffer(dummy: SeamlessDaskClient) -> None:
    """Of a result and of a checksum; made when asked for."""

    def produce(n):
        return b"x" * n

    transformer = delayed(produce)
    transformer.celltypes.result = "bytes"
    transformer(100_000).compute()
    transformation_checksum = transformer(100_000).construct()
    futures = dummy.get_transformation_futures(transformation_checksum)
    assert futures is not None
    assert futures.fat is None
    fat = dummy.ensure_fat_future(futures)
    assert fat.result(30).content == b"x" * 100_000
    fat.release()
    assert fat.cancelled()
    dummy.release_transformation_futures(futures)


def test_futures_of_checksums_are_for_tasks_of_others(
    dummy: SeamlessDaskClient,
) -> None:
    """Real futures of Dask; a buffer that is nowhere is part of the result."""

    def look(fetched: tuple[str, Buffer | None, str | None]) -> Any:
        digits, buffer, error = fetched
        return digits, None if buffer is None else bytes(buffer.content), error

    transformer = delayed(lambda n: b"x" * n)
    transformer.celltypes.result = "bytes"
    checksum = transformer(100_000).compute()
    for get in (dummy.get_fat_checksum_future, dummy.get_fat_finger_checksum_future):
        for value in (checksum, checksum.hex()):
            future = get(value)
            assert isinstance(future, Future)
            digits, buffer, error = future.result(30)
            assert (digits, error) == (checksum.hex(), None)
            assert isinstance(buffer, Buffer)
            assert buffer.get_checksum() == checksum
        seen = dummy.client.submit(look, future, pure=False).result(30)
        assert seen == (checksum.hex(), b"x" * 100_000, None)
        digits, buffer, error = get("1" * 64).result(30)
        assert (digits, buffer) == ("1" * 64, None)
        assert error is not None
        assert "1" * 64 in error


def test_results_come_with_the_end_of_their_tasks(
    dummy: SeamlessDaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for them; the scheduler does not keep them. Long errors are asked for."""
    asked = []
    gather = dummy.client.gather

    def noted(future: Any, **options: Any) -> Any:
        asked.append(future.key)
        return gather(future, **options)

    def kept(dask_scheduler: Any = None) -> list[Any]:
        every = [task.metadata or {} for task in dask_scheduler.tasks.values()]
        return [metadata for metadata in every if RESULT in metadata]

    def work(x, length):
        if not length:
            raise ValueError("v" * x)
        return x * "x"

    monkeypatch.setattr(dummy.client, "gather", noted)
    assert direct(work)(3, 1) == "xxx"
    assert direct(work)(300_000, 1) == 300_000 * "x"
    for length in (10, 300_000):
        failing = delayed(work)(length, 0)
        failing.compute()
        assert length * "v" in failing.exception
    assert len(asked) == 1
    assert dummy.client.run_on_scheduler(kept) == []


def test_finished_work_is_forgotten(
    dummy: SeamlessDaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time to live, neither client nor scheduler keeps anything of it."""
    monkeypatch.setattr(submitter_module, "CACHE_TTL", 0.2)

    def count_tasks(dask_scheduler: Any = None) -> int:
        return sum(1 for key in dask_scheduler.tasks if str(key).startswith("base"))

    def negate(x):
        return -x

    assert direct(negate)(5) == -5
    wait_until(lambda: not dummy._registry, "the client forgets")
    wait_until(
        lambda: dummy.client.run_on_scheduler(count_tasks) == 0,
        "the scheduler forgets",
    )


def test_two_workers_share_the_processes() -> None:
    """A dummy scheduler with more workers, in a process of its own."""
    script = """
import json, sys
import seamless, seamless.config
sys.path.insert(0, sys.argv[1])
from drivers import workloads
if __name__ == "__main__":
    from seamless_dask import create_dummy_client
    seamless.config.set_nparallel(50)
    create_dummy_client(workers=2, worker_threads=3, spawn_workers=2)
    print(json.dumps(workloads.random_trees("two", n=20, max_nodes=20)))
    seamless.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(TESTS)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["values_ok"]


def test_scheduler_for_other_clients(dummy: SeamlessDaskClient) -> None:
    """`start_dummy_scheduler` is a context manager; its address is known."""
    from distributed import Client

    with start_dummy_scheduler(workers=2, worker_threads=2) as handle:
        assert get_dummy_scheduler_address() == handle.address
        with Client(handle.address, set_as_default=False) as client:
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
    assert get_seamless_dask_client() is dummy


def test_bad_arguments_are_all_named() -> None:
    """One error for all of them."""
    with pytest.raises(ValueError) as caught:
        start_dummy_scheduler(port=-1, workers=-2, worker_threads=0)
    for part in ("port: got -1", "workers: got -2", "worker_threads: got 0"):
        assert part in str(caught.value)


UNGUARDED = """
import multiprocessing
from seamless_dask import create_dummy_client
if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=print).start()
else:
    create_dummy_client()
"""


def test_script_without_a_guard(tmp_path: Path) -> None:
    """Processes that import the script, and so call it again, are told why not."""
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60
    )
    assert 'below: if __name__ == "__main__":' in done.stderr


def test_command_line() -> None:
    """It explains itself, serves until it is told to end, and says where."""
    command = [sys.executable, "-m", "seamless_dask.dummy_scheduler"]
    shown = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0
    assert "--worker-threads" in shown.stdout
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    assert served.stdout.readline().startswith("Dummy scheduler at tcp://127.0.0.1:")
    served.terminate()
    assert served.wait(30) == 0


def test_calls_from_threads_are_calls_of_their_job(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """The slot that is lent is that of the job that waits, and no other's."""

    def waits(gate, name):
        import time
        from pathlib import Path

        while not Path(gate).exists():
            time.sleep(0.01)
        return name

    def calls(go, gate):
        import time
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path

        from seamless.transformer import delayed, direct

        def nested(gate, name):
            import time
            from pathlib import Path

            while not Path(gate).exists():
                time.sleep(0.01)
            return name

        while not Path(go).exists():
            time.sleep(0.01)
        with ThreadPoolExecutor(1) as pool:
            threaded = pool.submit(direct(nested), gate, "threaded")
            local = delayed(nested)
            local.local = True
            return [threaded.result(), local(gate, "local").run()]

    go, gate = tmp_path / "all_go", tmp_path / "gate_is_open"
    busy = [delayed(waits)(str(gate), name) for name in "abc"]
    caller = delayed(calls)(str(go), str(gate))
    for transformation in [caller, *busy]:
        transformation.start()

    def rows() -> list[dict[str, Any]]:
        return status(dummy)["transformations"]["with_workers"]

    def calling() -> set[str]:
        return {row["checksum"] for row in rows() if row["state"] == "calling"}

    wait_until(lambda: len(rows()) == 4, "all are with the worker")
    go.touch()
    assert wait_until(calling, "one of them waits") == {
        caller.transformation_checksum.hex()
    }
    gate.touch()
    assert caller.run() == ["threaded", "local"]
    assert [transformation.run() for transformation in busy] == ["a", "b", "c"]


def test_jobs_of_one_process_that_call_the_same(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """Each is known to wait: otherwise what they wait for never gets a slot."""

    def outer(folder, name):
        import time
        from pathlib import Path

        from seamless.transformer import delayed

        def shared(folder):
            return 42

        def helper(folder, name, i):
            import time
            from pathlib import Path

            from seamless.transformer import direct

            def shared(folder):
                return 42

            (Path(folder) / f"{name}{i}").touch()
            while not (Path(folder) / "go").exists():
                time.sleep(0.01)
            return direct(shared)(folder)

        helpers = [delayed(helper)(folder, name, i) for i in range(3)]
        for started in helpers:
            started.start()
        while len(list(Path(folder).iterdir())) < 6:
            time.sleep(0.01)
        called = delayed(shared)(folder)
        called.start()
        return [transformation.run() for transformation in [*helpers, called]]

    both = [delayed(outer)(str(tmp_path), name) for name in "ab"]
    for transformation in both:
        transformation.start()
    # The helpers have all slots.
    wait_until(
        lambda: status(dummy)["permissions"]["waiting"] == 2, "both wait for a slot"
    )
    (tmp_path / "go").touch()
    assert [transformation.run() for transformation in both] == [[42] * 4] * 2


def test_connections_keep_few_of_the_messages_that_were_sent(
    dummy: SeamlessDaskClient,
) -> None:
    """Driver, scheduler, worker and the client of the worker do not grow by them."""
    for n in range(2 * KEPT):
        workloads.chain(f"dummy/few messages/{n}", n=1)
        workloads.fan(f"dummy/few messages/{n}", n=1, leaves=1, how="start")
    connections = [
        each
        for each in gc.get_objects()
        if isinstance(each, BatchedSend) and not each.closed()
    ]
    used = [each for each in connections if each.batch_count > KEPT]
    assert len(used) >= 4, used
    assert [len(each.recent_message_log) for each in used] == [KEPT] * len(used)


def test_dask_keeps_nothing_of_codes_and_pauses(dummy: SeamlessDaskClient) -> None:
    """Neither a span for each transformation that runs alone, nor sums for each code."""

    def spans(dask_scheduler: Any = None) -> int:
        return len(dask_scheduler.extensions["spans"].spans)

    def sums(dask_worker: Any = None) -> int:
        for n in range(MOST):
            dask_worker.digests_total[
                "execute", None, f"code-{n}", "cpu", "seconds"
            ] += 1
            dask_worker.digests_max["execute", None, f"code-{n}", "cpu", "seconds"] = 1
            elapsed = dask_worker.state.task_counter.cumulative_elapsed()
            elapsed[f"code-{n}", "executing"] += 1
        dask_worker.metrics[METRICS](dask_worker)
        tables = dask_worker.digests_total, dask_worker.digests_max, elapsed
        return max(map(len, tables))

    before = dummy.client.run_on_scheduler(spans)
    for n in range(3):
        workloads.chain(f"dummy/spans/{n}", n=1)
    assert dummy.client.run_on_scheduler(spans) == before
    assert dummy.client.submit(sum, [1, 2], pure=False).result() == 3
    assert dummy.client.run_on_scheduler(spans) == before + 1
    assert all(each < MOST / 10 for each in dummy.client.run(sums).values())
