"""The failures that a scheduler remembers."""

from __future__ import annotations

import json
import logging

from helpers.schedulers import A, B, C, asynchronous, cluster, fail, gate, until
from hypothesis import given
from hypothesis import strategies as st

from scheduler_ext import messages, reports
from scheduler_ext.error_texts import with_pointer
from scheduler_ext.task_keys import base_key, deferred_key
from scheduler_ext.view import figures
from scheduler_ext.view.failures import OTHER, Failure, Failures
from scheduler_ext.view.operations import LOGGED


def failure(number: int, name: str = "f", cause: str | None = None) -> Failure:
    return Failure(
        key=f"key-{number}",
        checksum=f"{number:064x}",
        name=name,
        callers=(),
        worker="alpha",
        time=float(number),
        ending="failed",
        line="ValueError: bad",
        text="ValueError: bad\n",
        cause=cause,
    )


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans())),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_the_latest_causes_are_kept(
    events: list[tuple[str, bool]], limit: int, counted: int
) -> None:
    """Compared with a list; the totals are exact."""
    failures = Failures(limit, counted)
    kept: list[Failure] = []
    for number, (name, caused) in enumerate(events):
        new = failure(number, name, "x" if caused else None)
        failures.add(new)
        kept.append(new)
        if len(kept) > limit:
            kept.remove(next((each for each in kept if each.cause), kept[0]))
    assert failures.latest() == kept[::-1]
    assert failures.total == sum(failures.by_name.values()) == len(events)
    assert len(failures.by_name) <= counted + 1
    if len({name for name, _ in events}) > counted:
        assert OTHER in failures.by_name
    for each in kept:
        assert each.checksum is not None and failures.of(each.checksum) == each
    json.dumps(failures.answer(), allow_nan=False)


def test_the_last_failure_of_a_transformation_counts() -> None:
    """Without a checksum it is found by the key of its task."""
    failures = Failures()
    first, second = failure(1), failure(1, "g")
    failures.add(first)
    assert failures.add(second) == 1
    assert failures.of(first.checksum or "") is second
    assert failures.of(first.key) is None
    assert failures.summary()["total"] == 2
    assert "text" not in failures.summary()["latest"][0]


def fails_with(error, scheduled_as):
    """What a worker does with a transformation that fails."""
    from distributed import get_worker

    task = get_worker().state.tasks[scheduled_as]
    task.metadata[reports.REPORT] = reports.report(
        "failed", 0, begun=1, resume_wait=None, error=error
    )


@asynchronous
async def test_failures_are_shown_everywhere(caplog) -> None:
    """score, called by dock, fails; so does dock, and what needs the result of dock."""
    caplog.set_level(logging.INFO, "scheduler_ext.view.operations")
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(name="alpha")
        await c.register(worker, throttle=4)
        for code, name in ((A, "score"), (B, "dock")):
            client._send_to_scheduler(messages.function(code, name))
        score = base_key(A, {}, code=A)
        dock = base_key(B, {}, code=B)
        total = deferred_key({"x": 1}, {}, code=C)
        await c.request(worker, dock)
        await c.request(worker, score, owner=dock, depth=2)
        error = with_pointer("Traceback\nValueError: <bad>\n", "score", A)
        for key in (score, dock, total):
            await client.submit(fails_with, error, key, key=key)
        reply = await c.call.seamless_failures()
        assert (reply["total"], reply["by_name"]) == (
            3,
            {"score": 1, "dock": 1, "code cccccccc": 1},
        )
        third, second, first = reply["failures"]
        assert first == {
            "key": score,
            "checksum": A,
            "name": "score",
            "callers": ("dock",),
            "worker": "alpha",
            "time": first["time"],
            "ending": "failed",
            "line": "ValueError: <bad>",
            "text": error,
            "cause": None,
        }
        assert second["cause"] == third["cause"] == "score aaaaaaaaaaaa"
        assert third["checksum"] is None

        why = await c.call.seamless_why(checksum=A)
        assert why["failure"] == first
        assert why["label"] == "score < dock"
        assert why["reason"].startswith("failed: ValueError: <bad>; ")
        assert (await c.call.seamless_why(name="score"))["failure"] == first
        several = await c.call.seamless_why(name="code")
        assert several["found"] is False, "a name that is not known is none"
        status = (await c.call.seamless_status())["transformations"]["failures"]
        assert [each["key"] for each in status["latest"]] == [total, dock, score]

        page = figures.figures(c.plugin.operations)
        assert page.failures_title == "Failed transformations: 3"
        assert [row["name"] for row in page.failures] == [
            "code cccccccc (inputs awaited)",
            "dock bbbbbbbbbbbb",
            "score < dock aaaaaaaaaaaa",
        ]
        assert page.failures[1]["line"] == (
            "ValueError: <bad> (because score aaaaaaaaaaaa failed)"
        )
        assert (
            "score < dock aaaaaaaaaaaa failed on alpha: ValueError: <bad>"
            in caplog.messages
        )


@asynchronous
async def test_a_failure_that_dask_reports(caplog) -> None:
    """Its exception is the error; the log names the first ones of a function only."""
    caplog.set_level(logging.INFO, "scheduler_ext.view.operations")
    async with cluster() as c:
        client = await c.client()
        await c.worker(name="alpha")
        gate("x").set()
        keys = [base_key(f"{n:064x}", {}, code=A) for n in range(LOGGED + 5)]
        futures = [client.submit(fail, "x", key=key) for key in keys]
        await until(lambda: all(future.status == "error" for future in futures))
        failures = c.plugin.operations.failures
        assert failures.total == len(keys)
        (one,) = failures.latest(1)
        assert (one.ending, one.worker, one.cause) == ("erred", "alpha", None)
        assert "x" in one.line and one.text
        logged = [line for line in caplog.messages if "failed on alpha" in line]
        assert len(logged) == LOGGED
        assert logged[-1].endswith("(more of them are not logged)")


@asynchronous
async def test_transformations_are_found_by_name() -> None:
    """All of one function: failed, unfinished, ended."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker()
        await c.register(worker)
        client._send_to_scheduler(messages.function(A, "score"))
        keys = [base_key(f"{n:064x}", {}, code=A) for n in range(3)]
        await client.submit(str, "fine", key=keys[0])
        await client.submit(fails_with, "ValueError: bad", keys[1], key=keys[1])
        await c.request(worker, keys[2])
        await c.request(worker, base_key(B, {}, code=B))
        reply = await c.call.seamless_why(name="SCO")
        assert (reply["found"], reply["state"]) == (True, "several")
        assert reply["reason"] == (
            "3 transformations: 1 failed, 1 unfinished, 1 otherwise ended"
        )
        assert [row["key"] for row in reply["matches"]["rows"]] == [
            keys[1],
            keys[2],
            keys[0],
        ]
        # digits come first; a name may look like digits
        client._send_to_scheduler(messages.function(B, "facade"))
        await until(lambda: c.plugin.operations.functions.named("facade"))
        reply = await c.call.seamless_why(**messages.why("facade"))
        assert reply["checksum"] == B
