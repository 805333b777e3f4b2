"""Driver scripts that live dangerously, for test_drivers.py: they fork, are interrupted,
run in threads, end while calls are under way.

``driver_programs.py NAME SALT [ARGUMENT ...]``; what a program returns is printed as JSON.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import seamless
import seamless.config
from seamless.transformer import delayed, direct, parallel

SALT = ""


def patient(path, name):
    import os
    import time

    with open(f"{path}/{name}", "a") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(f"{path}/go"):
        time.sleep(0.02)
    return name


def double(x, salt):
    return 2 * x


def large(n, salt):
    return f"{n:08d}{salt}" * 300_000


def left() -> list[str]:
    """Return the keys of the transformations that the cluster has to do, in the end."""
    from seamless_dask import get_seamless_dask_client

    client = get_seamless_dask_client().client

    def look(dask_scheduler=None):
        return [
            key
            for key, task in dask_scheduler.tasks.items()
            if str(key).startswith("base") and task.state not in ("memory", "erred")
        ]

    deadline = time.monotonic() + 20
    while (keys := client.run_on_scheduler(look)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return keys


def wait_for(*paths: str) -> None:
    while not all(os.path.exists(path) for path in paths):
        time.sleep(0.01)


def interrupt_when(*paths: str) -> None:
    """Do what Ctrl-C, or a notebook's interrupt, does, when these files exist."""

    def interrupt() -> None:
        wait_for(*paths)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()


# -- forks -------------------------------------------------------------------------


def told(action: Callable[[], Any]) -> str:
    """Return the error that an action gives, by raising it or otherwise."""
    try:
        return str(action())
    except Exception as error:  # noqa: BLE001 - whatever the user is told
        return f"{type(error).__name__}: {error}"


async def task(x: int) -> Any:
    return await delayed(double)(x, SALT).task()


async def computation(x: int) -> Any:
    tf = delayed(double)(x, SALT)
    assert await tf.computation() is None
    return tf.exception


def compute(x: int) -> Any:
    tf = delayed(double)(x, SALT)
    assert tf.compute() is None
    assert tf.status == "Status: exception"
    return tf.exception


def in_parallel() -> Any:
    transformations = [delayed(double)(x, SALT) for x in range(20, 24)]
    return [tf.exception for tf in parallel(transformations)]


def on_event_loop(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def forks(path: str) -> Any:
    """Fork for each way to call a transformation; the children end in all ways."""
    from seamless_dask import get_seamless_dask_client, permissions

    direct(double)(0, SALT)
    client = get_seamless_dask_client()
    started = delayed(patient)(path, "started").start()
    wait_for(f"{path}/started")

    def interrupted() -> str:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            return told(lambda: direct(double)(9, SALT))
        return "not interrupted"

    ways = {
        "direct": lambda: direct(double)(1, SALT),
        "run": lambda: delayed(double)(2, SALT).run(),
        "compute": lambda: compute(3),
        "start": lambda: delayed(double)(4, SALT).start().run(),
        "task": lambda: on_event_loop(task(5)),
        "computation": lambda: on_event_loop(computation(6)),
        "parallel": in_parallel,
        "what the parent has started": started.run,
        "the client of the parent": lambda: client.submit_transformation(None),
        "buffers": lambda: client.get_fat_checksum_future("1" * 64),
        "permissions": permissions.try_request_permission,
        "a thread": lambda: in_thread(lambda: direct(double)(7, SALT)),
        "after Ctrl-C": interrupted,
        "after close": lambda: (seamless.close(), direct(double)(8, SALT)),
    }
    endings = (
        lambda: os._exit(0),
        lambda: sys.exit(0),
        lambda: os.kill(os.getpid(), 9),
    )
    children: dict[str, int] = {}
    for number, (name, way) in enumerate(ways.items()):
        pid = os.fork()
        if not pid:
            with open(f"{path}/{name}.txt", "w") as file:
                file.write(told(way))
            endings[number % 3]()
        children[name] = pid
    codes = {name: os.waitpid(pid, 0)[1] for name, pid in children.items()}
    open(f"{path}/go", "w").close()
    texts = {name: open(f"{path}/{name}.txt").read() for name in ways}
    return {
        "texts": texts,
        "codes": sorted(set(codes.values())),
        "parent": [started.run(), direct(double)(10, SALT)],
    }


def in_thread(action: Callable[[], Any]) -> Any:
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(told(action)))
    thread.start()
    thread.join()
    return results[0]


def pool_call(x: int) -> str:
    return told(lambda: direct(double)(x, SALT))


def pool_connect(salt: str) -> None:
    global SALT
    SALT = salt
    seamless.config.init(workdir=".")


def pools(path: str) -> Any:
    """Use pools of processes, of both kinds."""
    direct(double)(0, SALT)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        forked = pool.map(pool_call, range(30, 36), chunksize=1)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, initializer=pool_connect, initargs=(SALT,)) as pool:
        spawned = pool.map(pool_call, range(40, 46), chunksize=1)
    return {
        "forked": forked,
        "spawned": spawned,
        "parent": direct(double)(50, SALT),
    }


# -- interrupts --------------------------------------------------------------------


def interrupts(path: str) -> Any:
    """Be interrupted in each way to wait; afterwards all is as before."""
    before = threading.active_count()
    ways: dict[str, Callable[[], Any]] = {
        "run": lambda: delayed(patient)(path, "run").run(),
        "compute": lambda: delayed(patient)(path, "compute").compute(),
        "direct": lambda: direct(patient)(path, "direct"),
        "task": lambda: asyncio.run(awaiting(path, "task")),
        "parallel": lambda: list(
            parallel([delayed(patient)(path, name) for name in ("parallel", "p2")])
        ),
        "nested": lambda: direct(calls)(path, "nested"),
    }
    outcomes = {}
    for name, way in ways.items():
        interrupt_when(f"{path}/{name}")
        try:
            outcomes[name] = repr(way())
        except KeyboardInterrupt:
            outcomes[name] = left()
    # a file that appears now would let those go on that were left over
    open(f"{path}/go", "w").close()
    return {
        "outcomes": outcomes,
        "afterwards": direct(patient)(path, "run"),
        "threads": threading.active_count() - before,
    }


async def awaiting(path: str, name: str) -> Any:
    return await delayed(patient)(path, name).task()


def calls(path, name):
    from seamless.transformer import direct

    def inner(path, name):
        import time

        open(f"{path}/{name}", "w").close()
        while True:
            time.sleep(0.02)

    return direct(inner)(path, name)


# -- threads -----------------------------------------------------------------------


def threads(path: str) -> Any:
    """Call transformations in threads, with and without event loops of their own."""
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        if number % 3 == 0:
            results[number] = direct(double)(number, SALT)
        elif number % 3 == 1:
            results[number] = asyncio.run(task(number))
        else:
            results[number] = delayed(double)(number, SALT).start().run()

    started = [threading.Thread(target=call, args=(n,)) for n in range(30)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return [results[n] for n in range(30)] == [2 * n for n in range(30)]


# -- the end -----------------------------------------------------------------------


def close_twice(path: str) -> Any:
    """Close, twice, while something is under way; then use it."""
    tf = delayed(patient)(path, "a").start()
    wait_for(f"{path}/a")
    seamless.close()
    seamless.close()
    return told(tf.run)


def end_started(path: str) -> Any:
    """End the interpreter while what was started is under way."""
    kept = [delayed(patient)(path, f"a{i}").start() for i in range(4)]
    wait_for(*(f"{path}/a{i}" for i in range(4)))
    return [tf.status for tf in kept]


def end_threads(path: str) -> Any:
    """End it while threads wait: Python waits for them first."""

    def call(i: int) -> None:
        with open(f"{path}/result{i}", "w") as file:
            file.write(told(lambda: direct(patient)(path, f"a{i}")))

    for i in range(3):
        threading.Thread(target=call, args=(i,)).start()
    wait_for(*(f"{path}/a{i}" for i in range(3)))
    threading.Timer(0.5, lambda: open(f"{path}/go", "w").close()).start()
    return None


def end_daemons(path: str) -> Any:
    """End it while daemon threads wait: Python does not wait for them."""

    def call(i: int) -> None:
        direct(patient)(path, f"a{i}")

    for i in range(3):
        threading.Thread(target=call, args=(i,), daemon=True).start()
    wait_for(*(f"{path}/a{i}" for i in range(3)))
    return None


def end_tasks(path: str) -> Any:
    """End an event loop while transformations are awaited on it."""

    async def main() -> None:
        tasks = [delayed(patient)(path, f"a{i}").task() for i in range(3)]
        tasks += [delayed(patient)(path, f"b{i}").start() for i in range(3)]
        await asyncio.to_thread(wait_for, f"{path}/a0", f"{path}/b2")

    asyncio.run(main())
    return left()


def started_and_cancelled(path: str) -> Any:
    """Start and cancel, and end at once."""
    kept = [delayed(patient)(path, f"a{i}").start() for i in range(4)]
    wait_for(*(f"{path}/a{i}" for i in range(4)))
    kept += [delayed(patient)(path, f"b{i}").start() for i in range(4)]
    for tf in kept:
        tf.cancel()
    return [left(), sorted({tf.status for tf in kept})]


def started_and_large(path: str) -> Any:
    """Start many with large results; some have ended before anybody waits for them."""
    kept = [delayed(large)(i, SALT).start() for i in range(8)]
    kept[-1].run()
    return [len(tf.run()) for tf in kept] == [(8 + len(SALT)) * 300_000] * 8


def another_version(path: str) -> Any:
    """Be a driver of another version than the cluster."""
    import scheduler_ext

    scheduler_ext.PROTOCOL += 1
    scheduler_ext.__version__ = "9.8.7"
    return told(lambda: seamless.config.init(workdir="."))


def main() -> None:
    global SALT
    name, SALT, path = sys.argv[1:]
    if name != "another_version":
        seamless.config.init(workdir=".")
    value = globals()[name](path)
    if not name.startswith("end_"):
        seamless.close()
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
