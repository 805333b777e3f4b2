"""Transformations as promises: started, awaited, cancelled, looked at afterwards."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cancelling import SOON, by_another_client, unfinished
from helpers.patient_jobs import patient, running, starts
from helpers.polling import wait_until
from seamless import Checksum
from seamless.transformer import Transformation, delayed, direct
from seamless.util.get_event_loop import get_event_loop
from seamless_transformer.transformation_class import TransformationError

from scheduler_ext.task_keys import checksum_of
from seamless_dask import SeamlessDaskClient, set_seamless_dask_client
from seamless_dask.types import TransformationFutures

pytestmark = pytest.mark.cluster

CANCELED = "Transformation was canceled"


def on_loop(coroutine: Any) -> Any:
    return get_event_loop().run_until_complete(coroutine)


async def _task(tf: Transformation) -> Any:
    return await tf.task()


async def _started_task(tf: Transformation) -> Any:
    return await tf.start().task()


async def _started_computation(tf: Transformation) -> Any:
    return await tf.start().computation()


async def _both(tf: Transformation) -> Any:
    """Two tasks wait for the same; both are told the same."""
    one, two = await asyncio.gather(
        tf.start().task(), tf.task(), return_exceptions=True
    )
    assert str(one) == str(two)
    raise one


#: ways that give an error, and ways that give no checksum
ERROR = {
    "run": lambda tf: tf.run(),
    "start, run": lambda tf: tf.start().run(),
    "task": lambda tf: on_loop(_task(tf)),
    "start, task": lambda tf: on_loop(_started_task(tf)),
    "two tasks": lambda tf: on_loop(_both(tf)),
}
NONE = {
    "compute": lambda tf: tf.compute(),
    "start, compute": lambda tf: tf.start().compute(),
    "computation": lambda tf: on_loop(tf.computation()),
    "start, computation": lambda tf: on_loop(_started_computation(tf)),
    "computation of the value": lambda tf: on_loop(tf.computation(require_value=True)),
}


@pytest.fixture
def cancelled_when_it_runs(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> Iterator[Transformation]:
    """A transformation that is cancelled from elsewhere as soon as it runs."""
    tf = delayed(patient)(str(tmp_path), "victim")

    def cancel() -> None:
        running(tmp_path, "victim")
        by_another_client(dummy, delayed(patient)(str(tmp_path), "victim"))

    canceller = threading.Thread(target=cancel)
    canceller.start()
    yield tf
    canceller.join(SOON)
    wait_until(lambda: not unfinished(dummy), "nothing is left of it", SOON)


def assert_canceled(tf: Transformation) -> None:
    assert tf.status == "Status: canceled"
    assert tf.exception == CANCELED
    with pytest.raises(TransformationError, match=CANCELED):
        assert tf.result_checksum
    with pytest.raises(TransformationError, match=CANCELED):
        tf.run()


@pytest.mark.parametrize("way", ERROR.values(), ids=ERROR)
def test_cancelled_from_elsewhere_is_an_error(
    cancelled_when_it_runs: Transformation, way: Callable[[Transformation], Any]
) -> None:
    """One that ``except Exception`` catches."""
    with pytest.raises(TransformationError, match=CANCELED):
        way(cancelled_when_it_runs)
    assert_canceled(cancelled_when_it_runs)


@pytest.mark.parametrize("way", NONE.values(), ids=NONE)
def test_cancelled_from_elsewhere_is_no_checksum(
    cancelled_when_it_runs: Transformation, way: Callable[[Transformation], Any]
) -> None:
    """The transformation has the exception."""
    assert way(cancelled_when_it_runs) is None
    assert_canceled(cancelled_when_it_runs)


def test_what_depends_on_the_cancelled(
    cancelled_when_it_runs: Transformation,
) -> None:
    """It is canceled as well; so is the one that it waits for."""

    def double(x):
        return 2 * x

    downstream = delayed(double)(cancelled_when_it_runs)
    with pytest.raises(TransformationError, match="canceled"):
        downstream.start().run()
    assert "canceled" in downstream.exception
    assert_canceled(cancelled_when_it_runs)


def test_direct_calls(dummy: SeamlessDaskClient, tmp_path: Path) -> None:
    """A function that is called like any other."""

    def cancel() -> None:
        running(tmp_path, "victim")
        by_another_client(dummy, delayed(patient)(str(tmp_path), "victim"))

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(TransformationError, match=CANCELED):
        direct(patient)(str(tmp_path), "victim")
    canceller.join(SOON)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_cancelling_who_awaits(
    dummy: SeamlessDaskClient, tmp_path: Path, started: bool, how: str
) -> None:
    """That is an asyncio.CancelledError, or a TimeoutError, as with any coroutine."""
    tf = delayed(patient)(str(tmp_path), "victim")

    async def wait() -> None:
        if started:
            tf.start()
        task = asyncio.ensure_future(tf.computation())
        await asyncio.to_thread(running, tmp_path, "victim")
        if how == "timeout":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(task, 0.01)
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    on_loop(wait())
    wait_until(lambda: not unfinished(dummy), "nothing is left of it", SOON)


def test_cancel_async(dummy: SeamlessDaskClient, tmp_path: Path) -> None:
    """Whoever awaits the transformation is told by an error, not by a cancellation."""
    tf = delayed(patient)(str(tmp_path), "victim")

    async def wait() -> Any:
        tf.start()
        task = asyncio.ensure_future(tf.computation())
        await asyncio.to_thread(running, tmp_path, "victim")
        assert await tf.cancel_async()
        return await task

    assert on_loop(wait()) is None
    assert_canceled(tf)
    wait_until(lambda: not unfinished(dummy), "nothing is left of it", SOON)


@pytest.mark.parametrize("pause", [0, 0.0005, 0.002, 0.01])
def test_cancelled_before_it_was_submitted(
    dummy: SeamlessDaskClient, tmp_path: Path, pause: float
) -> None:
    """Or in that moment: nothing is left, and nothing runs."""
    pausing = threading.Event()
    for i in range(10):
        name = f"moment{pause}-{i}"
        tf = delayed(patient)(str(tmp_path), name)
        tf.start()
        pausing.wait(pause)
        tf.cancel()
        assert_canceled(tf)
        # its checksum was not known when it was cancelled
        if not starts(tmp_path, name):
            # a submission that the loop was in the middle of is over
            dummy.start(asyncio.sleep(0)).result(SOON)
            assert dummy.get_transformation_futures(tf_checksum(tmp_path, name)) is None
    wait_until(lambda: not unfinished(dummy), "nothing is left", SOON)


def tf_checksum(path: Path, name: str) -> str:
    return delayed(patient)(str(path), name).construct().hex()


# -- cancelled after the end -------------------------------------------------------


def at_once(tf: Transformation) -> bool:
    return tf.cancel()


def recursively(tf: Transformation) -> bool:
    return tf.cancel(recursive=True)


def asynchronously(tf: Transformation) -> bool:
    return bool(on_loop(tf.cancel_async()))


CANCELS = (at_once, recursively, asynchronously)


def invert(x):
    return 1 / x


@pytest.mark.parametrize("way", [*ERROR, *NONE])
def test_a_failure_stays_what_it_is(dummy: SeamlessDaskClient, way: str) -> None:
    """Also of what depends on it; running it again is possible as before."""
    run = {**ERROR, **NONE}[way]
    for cancel in CANCELS:
        failing = delayed(invert)(0)
        root = delayed(invert)(delayed(invert)(failing))
        for tf in (failing, root):
            if way in ERROR:
                with pytest.raises(TransformationError, match="division by zero"):
                    run(tf)
            else:
                assert run(tf) is None
        for tf in (root, failing):
            before = tf.exception
            assert "ZeroDivisionError: division by zero" in before
            assert not cancel(tf)
            assert (tf.status, tf.exception) == ("Status: exception", before)
            with pytest.raises(TransformationError, match="division by zero"):
                tf.run()
    failing.start()  # of what has ended: nothing happens
    failing.clear_exception()
    assert failing.status == "Status: ready"
    assert failing.compute() is None
    assert "division by zero" in failing.exception


@pytest.mark.parametrize("way", [*ERROR, *NONE])
def test_a_result_stays_what_it_is(dummy: SeamlessDaskClient, way: str) -> None:
    run = {**ERROR, **NONE}[way]
    for cancel in CANCELS:
        tf = delayed(invert)(delayed(invert)(4))
        if way == "two tasks":
            on_loop(_task(tf))
        else:
            run(tf)
        assert not cancel(tf)
        assert (tf.status, tf.exception, tf.run()) == ("Status: OK", None, 4.0)


def test_a_failure_before_anything_was_submitted(dummy: SeamlessDaskClient) -> None:
    """There is no checksum, and the error stays all the same."""
    tf = delayed(invert)(None)
    assert tf.compute() is None
    assert not tf.cancel()
    assert tf.exception.startswith("Input 'x' is None")


def test_a_failure_in_the_background(dummy: SeamlessDaskClient) -> None:
    """Nobody has waited for it yet; an asyncio task was made for it."""
    tf = delayed(invert)(0)
    tf.start()
    wait_until(lambda: tf.exception is not None, "it has failed", SOON)
    assert not tf.cancel()
    with pytest.raises(TransformationError, match="division by zero"):
        tf.run()


def test_what_a_failure_did_not_wait_for(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """A recursive cancel ends its other dependencies."""

    def pair(first, second):
        return [first, second]

    failing, waiting = delayed(invert)(0), delayed(patient)(str(tmp_path), "victim")
    waiting.start()
    running(tmp_path, "victim")
    tf = delayed(pair)(failing, None)
    tf._upstream_dependencies["second"] = waiting
    tf._exception = "it has failed"
    assert tf.cancel(recursive=True)
    assert tf.exception == "it has failed"
    assert_canceled(waiting)
    wait_until(lambda: not unfinished(dummy), "nothing is left of it", SOON)


def test_cancelling_who_awaits_the_value_of_what_has_ended(
    dummy: SeamlessDaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asyncio task is cancelled; the transformation has its result."""
    asked = asyncio.Event()

    async def never(*_arguments: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    tf = delayed(invert)(8)

    async def wait() -> None:
        task = tf.task()
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with monkeypatch.context() as patched:
        patched.setattr(Checksum, "fingertip", never)
        on_loop(wait())
    assert (tf.status, tf.run()) == ("Status: OK", 0.125)


# -- afterwards --------------------------------------------------------------------


def test_the_key_of_the_last_run_stays(dummy: SeamlessDaskClient) -> None:
    """Of a success and of a failure; the scheduler forgets the task all the same."""

    def divide(a, b):
        return a / b

    def known(key: str) -> bool:
        return dummy.client.run_on_scheduler(
            lambda key, dask_scheduler: key in dask_scheduler.tasks, key=key
        )

    good, bad = delayed(divide)(10, 4), delayed(divide)(1, 0)
    assert good.run() == 2.5
    assert bad.compute() is None
    for tf in (good, bad):
        futures = tf._dask_futures
        assert checksum_of(futures.base.key) == tf.construct().hex()
        assert futures.base.done()
        assert not futures.base.cancelled()
        digits, result, error = futures.thin.result()
        assert digits == tf.transformation_checksum.hex()
        assert (result is None) == (error is not None) == (tf is bad)
    key = good._dask_futures.base.key
    wait_until(lambda: not known(key), "the task is forgotten", 60)
    assert good._dask_futures.base.key == key
    bad.clear_exception()
    assert bad.compute() is None  # it runs again
    assert bad._dask_futures.base.key != key
    assert not bad.cancel()  # of what has ended there is nothing to release


# -- what people write -------------------------------------------------------------


def test_none_as_an_argument(dummy: SeamlessDaskClient) -> None:
    """The error says which input it is, what is wrong with it, and what to do."""

    def pair(first, second):
        return [first, second]

    cases: list[tuple[Transformation, str]] = [
        (delayed(pair)(None, 1), "Input 'first' is None"),
        (delayed(pair)(None, None), "Inputs 'first', 'second' are None"),
        (delayed(pair)(delayed(pair)(1, 2), None), "Input 'second' is None"),
    ]
    for tf, text in cases:
        assert tf.compute() is None
        assert tf.exception.startswith(text)
        assert "no value" in tf.exception
        assert "Traceback" not in tf.exception
    assert delayed(pair)([None], {"a": None}).run() == [[None], {"a": None}]

    def nested(x):
        from seamless.transformer import direct

        def inner(y):
            return y

        return direct(inner)(None)

    tf = delayed(nested)(1)
    assert tf.compute() is None
    assert "Input 'y' is None" in tf.exception


# -- clients of other makes --------------------------------------------------------


class Documented:
    """Our client, by its documented methods only."""

    def __init__(self, client: SeamlessDaskClient) -> None:
        self.client = client.client
        self._client = client
        self.submitted: list[Any] = []
        self.released: list[bool] = []

    def submit_transformation(
        self, submission: Any, need_fat: bool = False, priority_boost: int = 0
    ) -> Any:
        self.submitted.append(submission)
        return self._client.submit_transformation(submission, need_fat, priority_boost)

    def release_transformation_futures(self, futures: Any, cancel: bool) -> None:
        self.released.append(cancel)
        self._client.release_transformation_futures(futures, cancel=cancel)

    def cancel_by_checksum(self, checksum: Any) -> bool:
        return self._client.cancel_by_checksum(checksum)


class Elsewhere:
    """A client that has nothing to do with Dask."""

    def __init__(self, thin: Any) -> None:
        self._thin = thin

    def submit_transformation(self, submission: Any, **options: Any) -> Any:
        thin = self._thin(submission)
        return TransformationFutures(base=thin, thin=thin)


@pytest.fixture
def as_client(dummy: SeamlessDaskClient) -> Iterator[Callable[[Any], Any]]:
    """Make another object the client of this process for a while."""
    dummy._on_detach, on_detach = None, dummy._on_detach

    def use(client: Any) -> Any:
        set_seamless_dask_client(client)
        return client

    yield use
    set_seamless_dask_client(dummy)
    dummy._on_detach = on_detach


def test_any_object_with_the_documented_methods(
    dummy: SeamlessDaskClient, as_client: Callable[[Any], Any], tmp_path: Path
) -> None:
    """All ways to compute, dependencies, failures, cancellation."""
    client = as_client(Documented(dummy))

    def add(a, b):
        return a + b

    assert delayed(add)("doc", 1).compute() is None
    assert delayed(add)(1, 2).run() == 3
    assert delayed(add)(1, 3).start().run() == 4
    assert on_loop(_task(delayed(add)(1, 4))) == 5
    assert delayed(add)(delayed(add)(1, 5), delayed(add)(1, 6)).run() == 13
    assert direct(add)(1, 8) == 9
    optional = delayed(add)
    optional.local = None
    assert optional(1, 9).run() == 10
    assert len(client.submitted) == len(client.released) == 9
    tf = delayed(patient)(str(tmp_path), "victim")
    tf.start()
    running(tmp_path, "victim")
    assert tf.cancel()
    wait_until(lambda: not unfinished(dummy), "nothing is left of it", SOON)
    tf = delayed(patient)(str(tmp_path), "victim2")
    tf.start()
    running(tmp_path, "victim2")
    by_another_client(dummy, delayed(patient)(str(tmp_path), "victim2"))
    with pytest.raises(TransformationError, match=CANCELED):
        tf.run()


def test_a_client_that_is_no_client_of_dask(
    as_client: Callable[[Any], Any],
) -> None:
    """Its futures need no more than `done`, `cancelled` and `result`."""

    class Done:
        def __init__(self, result: Any) -> None:
            self._result = result

        def done(self) -> bool:
            return True

        def cancelled(self) -> bool:
            return self._result is None

        def result(self) -> Any:
            return self._result

        def release(self) -> None:
            """Nothing is held."""

    def seven() -> int:
        return 7

    as_client(Elsewhere(lambda submission: Done((None, None, ValueError("7")))))
    tf = delayed(seven)()
    assert tf.compute() is None
    assert "ValueError('7')" in tf.exception
    as_client(Elsewhere(lambda submission: Done(None)))
    tf = delayed(seven)()
    assert tf.compute() is None
    assert_canceled(tf)
    ended: concurrent.futures.Future[Any] = concurrent.futures.Future()
    as_client(Elsewhere(lambda submission: ended))
    tf = delayed(seven)()
    tf.start()
    ended.set_result((tf.construct().hex(), "7" * 64, None))
    assert tf.compute().hex() == "7" * 64


def test_started_here_and_computed_in_threads(dummy: SeamlessDaskClient) -> None:
    """No thread runs, and stops, the event loop that the others depend on."""

    def negative(number):
        return -number

    transformations = [delayed(negative)(i) for i in range(20)]
    for transformation in transformations:
        transformation.start()
    values: dict[int, Any] = {}

    def compute(number: int) -> None:
        transformations[number].compute()
        values[number] = transformations[number].run()

    threads = [
        threading.Thread(target=compute, args=(number,), daemon=True)
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert values == {i: -i for i in range(20)}
