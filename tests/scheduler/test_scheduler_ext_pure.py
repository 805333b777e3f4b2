"""Activity, cancellation, messages, and what the package imports: no cluster needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

import scheduler_ext
from scheduler_ext import messages, reports
from scheduler_ext.activity import UNFINISHED, Activity
from scheduler_ext.cancellation import LiveKeys
from scheduler_ext.fields import InvalidMessage
from scheduler_ext.permission.events import Request
from scheduler_ext.task_keys import checksum_of, is_transformation

PACKAGE = Path(scheduler_ext.__file__).parent
ALLOWED = {"dask", "distributed", "tornado", "bokeh", "prometheus_client"}

# -- imports -----------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda f: f.name)
def test_imports_nothing_but_the_scheduler_has(file):
    """Any Dask scheduler can load the package."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            assert top in ALLOWED | sys.stdlib_module_names, f"{file}: {name}"


def test_importing_the_names_of_the_calls_is_light():
    """Workers and clients read the protocol without loading a scheduler."""
    code = (
        "import sys, scheduler_ext, scheduler_ext.messages;"
        "assert 'distributed' not in sys.modules;"
        "assert scheduler_ext.attach and 'distributed' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_package_has_no_other_names():
    """A typing error is told as such."""
    with pytest.raises(AttributeError, match="atach"):
        _ = scheduler_ext.atach


# -- activity ----------------------------------------------------------------------

STATES = ("released", *UNFINISHED, "memory", "erred", "forgotten")


@settings(max_examples=examples(100))
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(STATES), st.floats(0, 10)),
        max_size=60,
    )
)
def test_counters_equal_a_scan(moves):
    """After any transitions the counters are those of a look at all tasks."""
    activity = Activity(0.0)
    tasks = dict.fromkeys(range(6), "released")
    now = last_busy = 0.0
    for task, finish, seconds in moves:
        was_busy = any(state in UNFINISHED for state in tasks.values())
        now += seconds
        if was_busy:
            last_busy = now
        if tasks[task] != finish:
            activity.move(tasks[task], finish, task % 2 == 0, now)
            tasks[task] = finish
    for counters, members in (
        (activity.all, list(tasks.values())),
        (activity.transformations, [v for k, v in tasks.items() if k % 2 == 0]),
    ):
        for state, name in UNFINISHED.items():
            assert counters.snapshot()[name] == members.count(state)
    busy = any(state in UNFINISHED for state in tasks.values())
    idle = 0.0 if busy else now + 5.0 - last_busy
    assert activity.snapshot(now + 5.0)["idle_seconds"] == pytest.approx(idle)


def test_totals_count_results_and_errors():
    """Data that was scattered is no result."""
    activity = Activity(0.0)
    activity.move("released", "memory", False, 1.0)
    activity.move("released", "waiting", True, 2.0)
    activity.move("waiting", "processing", True, 3.0)
    activity.move("processing", "memory", True, 4.0)
    activity.move("released", "erred", False, 5.0)
    snapshot = activity.snapshot(10.0)
    assert snapshot["finished_total"] == snapshot["erred_total"] == 1
    assert snapshot["transformations"]["finished_total"] == 1
    assert snapshot["transformations"]["erred_total"] == 0
    assert snapshot["idle_seconds"] == 6.0


def test_a_restart_makes_the_cluster_idle():
    """The totals stay."""
    activity = Activity(0.0)
    activity.move("released", "processing", True, 1.0)
    activity.clear(7.0)
    assert activity.snapshot(9.0)["idle_seconds"] == 2.0
    assert activity.snapshot(9.0)["processing"] == 0


# -- cancellation ------------------------------------------------------------------

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("key", "checksum"),
    [
        (f"base-{A}", A),
        (f"base-{A}-S2", A),
        (f"base-{A}-{B}", A),
        (f"base_{A}-{B}", B),
        (f"base_{A}-{B}-S2", B),
        (f"base_{A}-{B}-deferred", None),
        (f"base-{B}-deferred-r2", None),
        (f"base-{B}-deferred-other", B),
        (f"base_{A}", None),
        ("base-short", None),
        (f"base-{A}x", None),
        (f"base-{A.upper()}", None),
    ],
)
def test_the_checksum_in_a_key(key, checksum):
    """Both forms of a key, and those that name no transformation."""
    assert checksum_of(key) == checksum
    assert is_transformation(key)


@pytest.mark.parametrize(
    "key", ["x-base-", "base", "basement", ("base-", 1), 7, b"base-"]
)
def test_other_keys(key):
    """Dask keys can be many things."""
    assert not is_transformation(key)


def test_live_keys_are_forgotten_when_they_end():
    """Nothing grows."""
    live = LiveKeys()
    for key in (f"base-{A}", f"base_{B}-{A}-x", f"base-{B}", "base-other"):
        live.add(key)
        live.add(key)
    assert live.of(A) == [f"base-{A}", f"base_{B}-{A}-x"]
    assert live.of("c" * 64) == []
    for key in (f"base-{A}", f"base_{B}-{A}-x", f"base-{B}", "base-other", "base-no"):
        live.discard(key)
        live.discard(key)
    assert len(live) == 0 and not live._keys


def test_live_keys_that_are_named_later():
    """A task whose inputs were unknown when it was submitted."""
    live = LiveKeys()
    live.add("base-other")
    live.add(f"base-{B}")
    for _ in range(2):
        live.name("base-other", A)
        live.name(f"base-{B}", A)
    assert live.of(A) == [f"base-{B}", "base-other"]
    assert live.of(B) == []
    for key in live.of(A):
        live.discard(key)
        live.discard(key)
    assert not live._keys and not live._named


# -- messages ----------------------------------------------------------------------


def errors_of(parse, payload):
    with pytest.raises(InvalidMessage) as caught:
        parse(payload)
    return caught.value.errors


def test_requests_as_they_arrive():
    """Tuples instead of lists; everything but the id has a default."""
    message = messages.parse_requests(
        {"holder": "w", "requests": ({"id": "a"}, {"id": "b", "wait": False})}
    )
    assert message.requests == (Request("a", "w"), Request("b", "w", wait=False))
    assert message.wait_seconds == 0.0


def test_all_problems_at_once():
    """Nobody has to repair a message one field at a time."""
    errors = errors_of(
        messages.parse_requests,
        {
            "requests": [
                {"id": "", "depth": -1, "kee": "x"},
                {"id": "a", "wait": 1},
                {"id": "a"},
            ],
            "wait_seconds": float("nan"),
            "colour": "red",
        },
    )
    assert len(errors) == 8
    for text in (
        "field 'holder': got nothing",
        "field 'wait_seconds': got nan",
        "field 'requests[0].id': got ''",
        "field 'requests[0].depth': got -1",
        "field 'requests[0].kee': unknown",
        "field 'requests[1].wait': got 1",
        "field 'requests[2].id': got 'a' again",
        "field 'colour': unknown",
    ):
        assert any(error.startswith(text) for error in errors), text
    assert all("allowed: " in error for error in errors)


ALLOWED_VALUES = [("ceiling", None), ("worker", "x")]
NONSENSE = [-1, 0, 1.5, "x", "", None, True, float("nan"), float("inf"), [], 10**400]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in ("processes", "throttle", "ceiling", "worker")
        for value in NONSENSE
        if (field, value) not in ALLOWED_VALUES
    ],
    ids=lambda v: str(v)[:9],
)
def test_a_worker_that_registers_nonsense(field, value):
    """One error, and it names the field."""
    offer = {"worker": "tcp://w", "processes": 1, "throttle": 1, field: value}
    [error] = errors_of(messages.parse_registration, offer)
    assert error.startswith(f"field '{field}': got ")


@pytest.mark.parametrize(
    "resources", [{"S": -1}, {"S": float("nan")}, {"S": 10**400}, {1: 1}, {"": 1}, [1]]
)
def test_resources_that_are_nonsense(resources):
    """Units are amounts under a name."""
    offer = {"worker": "w", "processes": 1, "throttle": 1, "resources": resources}
    [error] = errors_of(messages.parse_registration, offer)
    assert error.startswith("field 'resources'")


def test_checksums_and_ids_in_lists():
    """The item that is wrong is shown."""
    assert messages.parse_cancel({"checksums": (A,)}) == (A,)
    [error] = errors_of(messages.parse_cancel, {"checksums": [A, "B" * 64]})
    assert "item 1 is 'BBB" in error
    [error] = errors_of(messages.parse_releases, {"holder": "w", "ids": "abc"})
    assert error.startswith("field 'ids': got 'abc', allowed: list")


TEXTS = st.text(min_size=1, max_size=20)
CHECKSUMS = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(
    TEXTS, st.lists(TEXTS, max_size=4), CHECKSUMS, st.integers(1, 9), st.floats(0, 9)
)
def test_what_builds_messages_and_what_parses_them_agree(
    holder, ids, checksum, number, amount
):
    """Everything that is sent is understood."""
    built = messages.registration(
        holder, processes=number, throttle=2, units=amount, resources={"S": amount}
    )
    assert messages.parse_registration(built) == messages.Registration(
        holder, number, 2, None, amount, {"S": amount}
    )
    asked = {
        lease_id: messages.lease_request(
            lease_id, key=checksum, owner=holder, depth=number, wait=amount > 1
        )
        for lease_id in ids
    }
    assert messages.parse_requests(
        messages.lease_requests(holder, asked.values(), amount)
    ) == messages.Requests(
        tuple(
            Request(lease_id, holder, checksum, holder, number, amount > 1)
            for lease_id in asked
        ),
        holder,
        amount,
    )
    release = messages.release(holder, ids)
    assert release.pop("op") == messages.OP_RELEASE
    assert messages.parse_releases(release) == messages.Releases(holder, tuple(ids))
    named = messages.name(holder, checksum)
    assert named.pop("op") == messages.OP_NAME
    assert messages.parse_name(named) == (holder, checksum)
    assert messages.parse_cancel(messages.cancel([checksum])) == (checksum,)
    assert messages.parse_why(messages.why(checksum.upper())) == (
        checksum,
        checksum.upper(),
    )
    assert messages.parse_why(messages.why("score")) == (None, "score")
    told = messages.function(checksum, holder)
    assert told.pop("op") == messages.OP_FUNCTION
    assert messages.parse_function(told) == (checksum, holder)
    assert reports.parse_parcel(reports.parcel(holder, ids)) == (holder, ids)
    figures = reports.figures(number, amount, number)
    assert reports.parse_figures({reports.METRICS: figures}) == reports.WorkerFigures(
        number, amount, number
    )
    told = reports.report(
        "stored",
        number,
        begun=None,
        resume_wait=amount,
        usage=(amount, amount, number),
    )
    assert reports.parse_report({reports.REPORT: told}) == {
        "ending": "stored",
        "cache_hits": number,
        "resume_wait": amount,
        "usage": (amount, amount, number),
    }
    assert reports.parse_usage(told) == (amount, amount, number, amount)


@pytest.mark.parametrize("value", [None, 1, "x", [], {"processes": "many"}])
def test_what_a_worker_says_of_itself_may_be_nonsense(value):
    """It is taken for nothing: a heartbeat and the end of a task have no answer."""
    assert reports.parse_figures({reports.METRICS: value}) == reports.WorkerFigures()
    told = {"usage": value, "resume_wait": value}
    assert reports.parse_usage(told) == (None, None, None, None)
    told = {"usage": (value, float("nan"), -1)}
    assert reports.parse_usage(told)[1:] == (None, None, None)
    if not isinstance(value, dict):
        assert reports.parse_report({reports.REPORT: value}) is None
        assert reports.parse_parcel(value) is None
    assert reports.parse_report(None) is None


WIRE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(("id", "key")), inner)
    ),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    ("worker", "processes", "throttle", "holder", "requests", "ids", "checksums")
)


@settings(max_examples=examples(60))
@given(st.dictionaries(FIELDS | st.text(max_size=5), WIRE, max_size=8))
def test_whatever_arrives_is_an_error_or_a_value(payload):
    """Nothing on the wire makes a parser raise anything else."""
    for parse in (
        messages.parse_nothing,
        messages.parse_registration,
        messages.parse_requests,
        messages.parse_releases,
        messages.parse_cancel,
    ):
        try:
            parse(payload)
        except InvalidMessage as problem:
            assert problem.errors
