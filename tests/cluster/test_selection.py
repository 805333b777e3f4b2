"""What differs between two definitions of a queue."""

from __future__ import annotations

from typing import Any

import pytest
from seamless_config.cluster import Cluster

from seamless_dask.cluster.selection import changes, definition_of

QUEUE = {"conda": "", "walltime": "1h", "memory": "4GB", "maximum_jobs": 1}


def selection(queue: str = "short", **definition: Any) -> dict[str, Any]:
    """As `current` returns it."""
    frontends = [{"hostname": "login"}]
    queues = {"short": QUEUE, "long": {**QUEUE, "walltime": "9h"}}
    cluster = Cluster.from_dict(
        "big", {"type": "local", "frontends": frontends, "queues": queues, **definition}
    )
    return {
        "cluster": "big",
        "definition": definition_of(cluster),
        "queue": queue,
        "node": None,
    }


def with_queue(**values: Any) -> dict[str, Any]:
    return selection(queues={"short": {**QUEUE, **values}})


@pytest.mark.parametrize(
    "same",
    [
        selection(),
        with_queue(),
        selection(frontends=[{"hostname": "other"}], tunnel=True),
        selection(queues={"a": QUEUE, "short": {"TEMPLATE": "a"}}),
        with_queue(project=None, job_extra_directives=None),
    ],
)
def test_what_is_no_change(same: dict[str, Any]) -> None:
    """Other queues, services, other ways to write the same."""
    assert changes(selection(), same) == changes(same, selection()) == []


def test_lists_that_dask_has_sent_are_the_same() -> None:
    sent = with_queue(job_extra_directives=["--exclusive"])
    queue = sent["definition"]["queues"]["short"]
    received = {**queue, "job_extra_directives": ("--exclusive",)}
    definition = {**sent["definition"], "queues": {"short": received}}
    assert changes({**sent, "definition": definition}, sent) == []


def test_all_changes_by_name() -> None:
    after = with_queue(walltime="2h", project="x" * 100)
    long, short = changes(selection(), after)
    assert long == f"project was None and is '{'x' * 56}..."
    assert short == "walltime was '1h' and is '2h'"
    assert changes(after, selection())[1] == "walltime was '2h' and is '1h'"


def test_workers_count_unless_the_queue_has_cores() -> None:
    assert changes(selection(workers=2), selection(workers=3)) == [
        "workers was 2 and is 3"
    ]
    queues = {"short": {**QUEUE, "cores": 2}}
    before, after = (selection(workers=n, queues=queues) for n in (2, 3))
    assert changes(before, after) == []
