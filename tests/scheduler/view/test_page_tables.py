"""The tables of the page: rows keep their places, groups count everything."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from helpers.schedulers import asynchronous, cluster, gate, pass_gate, until
from hypothesis import given

from scheduler_ext.about import About
from scheduler_ext.task_keys import TOP_LEVEL_RESOURCE
from scheduler_ext.view import figures
from scheduler_ext.view.dashboard import Page, Shown
from scheduler_ext.view.figures import GroupRows
from scheduler_ext.view.page_tables import Groups, Places, Table


@given(st.lists(st.lists(st.integers(0, 12), unique=True), max_size=12))
def test_rows_keep_their_places(steps: list[list[int]]) -> None:
    """Each row is there once; one that stays moves only when half of them are gone."""
    places, before = Places(), []
    for keys in steps:
        rows = places.put([{"key": key} for key in keys])
        after = [None if row is None else row["key"] for row in rows]
        assert sorted(key for key in after if key is not None) == sorted(keys)
        if len(after) >= len(before):
            stayed = [key for key in before if key in keys]
            assert all(after.index(key) == before.index(key) for key in stayed)
        else:
            assert None not in after
        assert 2 * len(keys) > len(after) or not after
        before = after


def test_each_column_has_a_width() -> None:
    """Otherwise the widths would be those of other columns."""
    for widths in ((100,), (50, 30, 20)):
        with pytest.raises(ValueError, match="zip"):
            Table("two", {"name": "worker", "slots": "slots"}, widths)


@given(st.lists(st.text(max_size=5), max_size=4), st.text(max_size=9))
def test_a_group_is_opened_by_its_tags(opened: list[str], name: str) -> None:
    """A browser sends which groups are open; it may send anything."""
    row = {"key": "k", "name": name, "checksum": None, "age": "5 s ago", "reason": "x"}
    page = Groups()
    group = GroupRows("slot", "1 waits for a slot", f"1 {name}", "", [row])
    page.update("Waiting transformations: 1", [group])
    assert "1 waits for a slot" in page.root.text
    assert 'class="opened"' not in page.root.text
    page.root.tags = opened
    assert ('class="opened"' in page.root.text) == ("slot" in opened)
    page.root.tags = [*opened, "slot", 7]
    assert 'class="opened"' in page.root.text
    assert "<script" not in page.root.text


@pytest.mark.cluster
@asynchronous
async def test_each_transformation_that_waits_is_in_one_group() -> None:
    """By what it waits for, with names and numbers; more than the page looks at."""
    async with cluster() as c:
        functions = c.plugin._functions
        codes = {name: f"{n:064x}" for n, name in enumerate(("score", "dock"))}
        for name, code in codes.items():
            functions.learn(code, name)
        client = await c.client()

        def submit(name, number, *args, **resources):
            key = f"base_{codes[name]}-{number + 2**200:064x}"
            needs = {TOP_LEVEL_RESOURCE: 1, **resources}
            return client.submit(pass_gate, "x", *args, key=key, resources=needs)

        first = [submit("score", number) for number in range(320)]
        first += [submit("dock", 1000 + number) for number in range(30)]
        below = submit("dock", 2000, first[0])
        odd = submit("score", 3000, GPU=1)
        await until(lambda: c.plugin._activity.transformations.unfinished == 352)

        def groups():
            found = figures.figures(c.plugin.operations).waiting
            return {group.state: (group.title, group.names) for group in found}

        shown = groups()
        assert set(shown) == {"no-worker", "dependency"}
        assert shown["no-worker"][0] == "351 wait for a worker"
        assert shown["dependency"] == ("1 waits for its inputs", "1 dock")

        worker = await c.worker(nthreads=4, units={TOP_LEVEL_RESOURCE: 1000})
        await c.register(worker, processes=2, resources=worker.units)
        await until(lambda: c.plugin._machine.places.taken == 2)
        await until(lambda: len(c.plugin.operations.journal.with_worker) == 2)
        shown = groups()
        assert shown["slot"] == ("348 wait for a slot", "score, …")
        # it came later than many others that Dask has in the same state
        assert shown["no-worker"] == ("1 waits for a worker", "")
        assert shown["dependency"][0] == "1 waits for its inputs"
        gate("x").set()
        await client.cancel(odd)
        await client.gather([*first, below])
        assert groups() == {}


@pytest.mark.cluster
@asynchronous
async def test_the_head_says_how_the_cluster_is() -> None:
    """Idle, at work, refused by the batch system; with the times that are left."""
    async with cluster() as c:
        operations = c.plugin.operations

        def head():
            now = figures.figures(operations)
            return now.standing, {fact.label: fact.value for fact in now.facts}

        standing, facts = head()
        assert standing == "No work; no worker is connected"
        assert (facts["project"], facts["idle end"]) == ("-", "never")
        c.plugin.introduce(
            About("big", "fit/a", "dask_jobqueue::SLURMCluster", "slurm", 600.0, 7200.0)
        )
        standing, facts = head()
        assert standing == "No work; workers start with work; ends in 10 min"
        assert facts == {
            **facts,
            "project": "fit/a",
            "cluster": "big",
            "kind": "SLURMCluster",
            "walltime": "2.0 h per job",
            "idle end": "in 10 min",
        }
        now = figures.figures(operations)
        assert all(fact.help for fact in now.facts)
        assert all(card.help for card in now.cards)
        titles = [card.title for card in now.cards]
        (jobs,) = (card for card in now.cards if card.title == "Jobs")
        assert (jobs.value, jobs.note) == ("0", "in the queue of SLURM")

        client = await c.client()
        future = client.submit(pass_gate, "x", key=f"base-{'a' * 64}")
        await until(lambda: operations.journal.waiting)
        error = {"time": 0.0, "message": "sbatch: no", "retry_at": None, "failures": 3}
        c.plugin.scaling.update(
            jobs={}, submission_error=error, excluded_nodes={}, oldest_job=0.0
        )
        standing, facts = head()
        assert standing == "At work: 1 waiting, 0 running on 0 workers"
        assert facts["walltime"] == "0 s left"
        assert facts["idle end"] == "10 min after the last work"
        now = figures.figures(operations)
        assert [card.title for card in now.cards] == titles, "each card has its place"
        assert now.cards[-1].note == "SLURM refuses: sbatch: no"
        assert now.cards[-1].alarming
        await client.cancel(future)
        await until(lambda: not operations.journal.waiting)
        await c.worker(name="w")
        assert head()[0].startswith("No work; 1 worker is idle; ends in ")


@pytest.mark.cluster
@asynchronous
async def test_the_same_workers_are_shown_for_a_while() -> None:
    """In the order of their names, and with those that are busy."""
    async with cluster() as c:
        for number in (10, 9, 2):
            await c.worker(name=f"w-{number}")
        choice = figures.Choice()

        def names(now):
            return [str(ws.name) for ws in choice.workers(c.plugin.operations, now)]

        assert names(0.0) == ["w-2", "w-9", "w-10"]
        await c.worker(name="w-1")
        assert names(1.0) == ["w-1", "w-2", "w-9", "w-10"]
        Page(Shown(c.plugin.operations)).update()
