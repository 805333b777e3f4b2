"""The benchmarks: their arithmetic, the simulator, and one tiny run of everything."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from helpers.examples import examples
from helpers.paths import BENCHMARKS
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_ext.permission import epoch

sys.path.insert(0, str(BENCHMARKS))

import micro_machine
import report
import simulate
from charts import Chart, svg
from figures import (
    Spread,
    markdown_table,
    percentile,
    ratios,
    rounded,
    table,
)
from simulation import Outcome, Policy, Simulation
from suite import Workload, measure, record, sleepers
from trees import Node, random_tree
from usage import difference, kinds

# -- arithmetic --------------------------------------------------------------------


def test_percentile_is_a_value_that_was_measured() -> None:
    """No interpolation: what is reported has happened."""
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(range(1, 101), 99) == 99
    assert percentile([5], 0) == percentile([5], 100) == 5
    assert math.isnan(percentile([], 50))


def test_a_spread_always_says_how_often() -> None:
    """A median without its count is no figure."""
    assert Spread.of([]) is None
    one, three = Spread.of([2.0]), Spread.of([1.0, 4.0, 2.0])
    assert one is not None and three is not None
    assert one.text() == "2.00 (n=1)"
    assert three.text() == "2.00 (1.00-4.00, n=3)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (1234.5, "1234"), (-2, "-2.00")],
)
def test_rounding_keeps_three_digits(value: float, text: str) -> None:
    """And never drops digits before the point."""
    assert rounded(value) == text


def test_ratios_compare_the_same_repeat() -> None:
    """A repeat that one side did not finish counts for neither."""
    assert ratios({0: 10, 1: 30, 2: 99}, {0: 5, 1: 10}) == Spread(2, 2, 2.5, 3)
    assert ratios({0: 1.0}, {}) is None
    assert ratios({0: 1.0}, {0: 0.0}) is None


def test_tables_line_up() -> None:
    """Names to the left, figures to the right."""
    text = table(["what", "n"], [["a", 1], ["longer", 22]])
    assert text.splitlines() == ["what     n", "------  --", "a        1", "longer  22"]
    assert (
        markdown_table(["a", "b"], [[1, 2]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    )


# -- who is who --------------------------------------------------------------------


def test_kinds_follow_commands_and_parents() -> None:
    """Processes of multiprocessing are known by who started them."""
    spawn = ["python", "-c", "from multiprocessing.spawn import spawn_main"]
    processes = {
        1: (0, ["python", "/x/driver.py", "tree"]),
        2: (0, ["python", "/bin/seamless-dask-wrapper", "distributed::LocalCluster"]),
        3: (2, spawn),
        4: (3, spawn),
        5: (2, ["python", "-c", "from multiprocessing.resource_tracker import main"]),
        6: (0, ["python", "/bin/hashserver", "--status-file", "/x/database-1.json"]),
        7: (0, ["python", "/bin/seamless-jobserver", "--workers", "2"]),
        8: (7, spawn),
        9: (1, spawn),
        10: (0, ["python", "-m", "dask", "worker", "tcp://h:1"]),
        11: (0, ["bash"]),
        12: (2, ["python", "-m", "seamless_dask.wrapper.guard", "--mark", "01"]),
    }
    assert kinds(processes, driver=1) == {
        1: "driver",
        2: "scheduler",
        3: "Dask worker",
        4: "Seamless process",
        5: "other",
        6: "hashserver",
        7: "jobserver",
        8: "Seamless process",
        9: "Seamless process",
        10: "Dask worker",
        11: "other",
        12: "other",
    }


def test_usage_of_a_process_that_is_new_counts_from_zero() -> None:
    """Whereas one that was there counts from what it had used."""
    before = {1: {"kind": "driver", "cpu": 5.0, "memory": 10, "now": 8}}
    after = {
        1: {"kind": "driver", "cpu": 6.0, "memory": 30, "now": 20},
        2: {"kind": "driver", "cpu": 0.5, "memory": 5, "now": 4},
    }
    assert difference(before, after) == {
        "cpu": {"driver": 1.5},
        "memory": {"driver": 35},
        "growth": {"driver": 27},
    }


# -- runs and reports --------------------------------------------------------------

TREE = Workload("some trees", "tree", {"n": 1})


def outcome(seconds: float, **more: Any) -> dict[str, Any]:
    """What a driver prints."""
    return {
        "values_ok": True,
        "distinct": 10,
        "seconds": seconds,
        "stored": 10,
        "cpu": {"driver": 0.1, "database": 0.05},
        "memory": {"driver": 5e6, "database": 5e6},
        **more,
    }


def test_record_names_what_went_wrong() -> None:
    """And has no rate then, so that nobody computes with it."""
    hung = record("b", TREE, 0, {"error": "driver 'x' did not end within 9 s\n..."})
    assert hung["problem"] == "did not finish in 9 s"
    broken = record("b", TREE, 0, {"error": "driver 'x' ended with exit code 1"})
    assert broken["problem"] == "failed"
    wrong = record("b", TREE, 0, outcome(1, values_ok=False))
    assert wrong["problem"] == "wrong values"
    assert not any("rate" in run for run in (hung, broken, wrong))


def test_slot_efficiency_is_useful_seconds_over_all_slots() -> None:
    """Two jobs with three leaves of 0.5 s on 1 x 3 slots take 1 s at best."""
    workload = sleepers(2, 3, 0.5, processes=1)
    assert record("b", workload, 0, outcome(1.0))["slot_efficiency"] == 1.0
    assert record("b", workload, 0, outcome(4.0))["slot_efficiency"] == 0.25
    assert record("b", TREE, 0, outcome(4.0))["slot_efficiency"] is None


class Scripted:
    """A backend that has its outcomes from a list and notes when it is asked."""

    def __init__(
        self, name: str, outcomes: list[dict[str, Any]], log: list[str]
    ) -> None:
        self.name = name
        self.processes = 0
        self._outcomes = iter(outcomes)
        self._log = log

    def run(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self._log.append(self.name)
        return next(self._outcomes)

    def close(self) -> None:
        self._log.append(f"close {self.name}")


def test_backends_take_turns_and_hopeless_ones_are_spared() -> None:
    """A B A B, until B has failed twice; at the end all are closed."""
    log: list[str] = []
    hung = {"error": "driver 'x' did not end within 9 s"}
    backends: list[Any] = [
        Scripted("A", [outcome(1)] * 4, log),
        Scripted("B", [hung] * 2, log),
    ]
    runs = measure(
        backends, [TREE], repeats=4, timeout=9, salt="s", tell=lambda text: None
    )
    assert log == ["A", "B", "A", "B", "A", "A", "close A", "close B"]
    assert [run["backend"] for run in runs] == ["A", "B", "A", "B", "A", "A"]


def test_summary_has_ratios_costs_and_problems() -> None:
    """One line per workload and backend, each figure with its count."""
    runs = []
    for repeat, seconds in enumerate((1.0, 2.0)):
        for backend, factor in (("mine", 1.0), (report.JOBSERVER, 2.0)):
            done = outcome(factor * seconds, latencies=[0.1, 0.2])
            runs.append(record(backend, TREE, repeat, done) | {"load_before": 0.5})
    failed = record(report.POOL, TREE, 0, {"error": "did not end within 9 s"})
    runs.append(failed | {"load_before": 0.5})
    mine, theirs, pool = report.summarise(runs)
    assert mine.rate == Spread(2, 5, 7.5, 10)
    assert mine.to_jobserver == Spread(2, 2, 2, 2)
    assert mine.to_pool is None
    assert theirs.to_jobserver == Spread(2, 1, 1, 1)
    assert mine.cpu["driver"] == Spread(2, 10, 10, 10)
    assert mine.cpu_total is not None and mine.cpu_total.median == pytest.approx(15)
    assert mine.stored == Spread(2, 1, 1, 1)
    assert (mine.calls, mine.latencies[50]) == (4, 100)
    assert pool.rate is None and pool.problem == "did not finish in 9 s (1 of 1 runs)"
    text = report.tables([mine, theirs, pool])
    assert "n=2" in text and "did not finish" in text
    assert json.dumps(report.as_json([mine, pool]))


# -- the simulator -----------------------------------------------------------------

SEEDS = st.integers(0, 10_000)
POLICIES = st.builds(
    Policy,
    deepest_first=st.booleans(),
    lending=st.booleans(),
    places=st.booleans(),
    low_load=st.sampled_from([-1.0, 0.5, 0.9]),
    epoch=st.sampled_from([1.0, 10.0]),
)


def simulated(seed: int, policy: Policy, unknown: float = 0.0, **more: Any) -> Outcome:
    """A few trees on two workers; the machine is checked at the end."""
    rng = random.Random(seed)
    trees = [random_tree(rng, nodes=20, unknown_owners=unknown) for _ in range(8)]
    simulation = Simulation(trees, workers=2, policy=policy, **more)
    result = simulation.run()
    simulation.machine.validate()
    assert simulation.machine.live == 0
    return result


@settings(max_examples=examples(60))
@given(seed=SEEDS, policy=POLICIES, unknown=st.sampled_from([0.0, 0.5, 1.0]))
def test_every_tree_ends(seed: int, policy: Policy, unknown: float) -> None:
    """With every policy, and nobody is refused where there is room."""
    result = simulated(seed, policy, unknown)
    assert result.unfinished == 0
    assert result.refused == 0
    assert 0 < result.efficiency <= 1 + 1e-9
    assert result.stretch >= 1 - 1e-9


@settings(max_examples=examples(40))
@given(seed=SEEDS, ceiling=st.integers(1, 4))
def test_every_tree_ends_at_a_low_ceiling(seed: int, ceiling: int) -> None:
    """What is refused is computed by its caller, so the tree ends all the same."""
    assert simulated(seed, Policy(), ceiling=ceiling).unfinished == 0


@settings(max_examples=examples(40))
@given(seed=SEEDS)
def test_known_callers_never_need_more_than_the_capacity(seed: int) -> None:
    """With lending no epoch and no deadlock has to give out more slots than exist."""
    result = simulated(seed, Policy())
    assert result.over_capacity == result.deadlocks == 0
    assert result.idle_seconds == 0


def test_one_transformation_takes_its_work() -> None:
    """Virtual time is work and nothing else."""
    assert Simulation([Node(2.0, True)], workers=1).run().makespan == 2.0


def test_nested_and_top_level_work_share_the_slots() -> None:
    """Two top-level ones and three nested ones of 3 s each on three slots."""
    caller = Node(0.0, together=True)
    caller.children = [Node(3.0, True, depth=1, parent=caller) for _ in range(3)]
    result = Simulation([caller, Node(3.0, True), Node(3.0, True)], workers=1).run()
    assert result.makespan == pytest.approx(6.0)


@settings(max_examples=examples(20))
@given(seed=SEEDS)
def test_processors_are_shared_beyond_the_slots(seed: int) -> None:
    """Without lending, slots beyond the capacity are given out: the rest gets slower."""
    result = simulated(seed, Policy(lending=False))
    assert result.unfinished == 0 and result.efficiency <= 1 + 1e-9


def test_no_slot_is_idle_while_something_waits() -> None:
    """Also not while a result is being stored, or on a worker that comes later."""
    trees = [Node(1.0, True) for _ in range(60)]
    late = Simulation(trees, workers=3, workers_at=[0.0, 2.0, 2.0], storing=0.5).run()
    assert late.makespan == pytest.approx(8.5)  # 60 = 3 x 2 + 9 x 6
    old = Simulation(
        [Node(1.0, True) for _ in range(60)],
        workers=3,
        workers_at=[0.0, 2.0, 2.0],
        storing=0.5,
        policy=Policy(places=False),
    ).run()
    assert old.makespan > 1.5 * late.makespan


@settings(max_examples=examples(40))
@given(
    seed=SEEDS,
    losses=st.lists(st.floats(0.0, 20.0), max_size=6),
    replaced=st.sampled_from([0.0, 3.0]),
    storing=st.sampled_from([0.0, 0.5]),
)
def test_every_tree_ends_whatever_workers_are_lost(
    seed: int, losses: list[float], replaced: float, storing: float
) -> None:
    """Nothing is held for what was lost, and no slot is idle while something waits."""
    result = simulated(
        seed, Policy(), losses_at=losses, replaced=replaced, storing=storing
    )
    assert result.unfinished == 0
    assert 0 < result.efficiency <= 1 + 1e-9
    if not losses:
        assert result.used_while_waiting == pytest.approx(1.0)


def test_what_was_stored_before_a_loss_is_not_computed_again() -> None:
    """One call after the other; the caller begins again when another worker is there."""
    caller = Node(0.0, together=False)
    caller.children = [Node(2.0, True, depth=1, parent=caller) for _ in range(3)]
    result = Simulation([caller], workers=1, losses_at=[5.0], replaced=3.0).run()
    assert result.makespan == pytest.approx(2 + 2 + 1 + 3 + 2)
    assert result.lost == (1, 2)
    with pytest.raises(ValueError, match="losses_at"):
        Simulation([], workers=1, losses_at=[1.0], policy=Policy(places=False))


def test_top_level_ones_wait_for_units() -> None:
    """There are as many as slots, so the fourth begins when another has ended."""
    result = Simulation([Node(2.0, True) for _ in range(4)], workers=1).run()
    assert result.makespan == pytest.approx(4.0)


def test_trees_that_arrive_later_wait_for_nobody() -> None:
    """The ideal counts from the arrival."""
    result = Simulation([Node(1.0, True)], workers=1, arrivals=[5.0]).run()
    assert (result.makespan, result.ideal, result.idle_seconds) == (6.0, 6.0, 0.0)


def test_depth_first_holds_fewer() -> None:
    """The reason for the rule: breadth first holds whole generations."""
    deepest, in_order = simulate.depths(seed=1, deepest=5)[5]
    assert deepest.most_held < in_order.most_held / 2
    assert deepest.most_held <= deepest.slots * 5


def test_policy_constants_are_put_back() -> None:
    """Also when something fails in between."""
    before = epoch.LOW_LOAD
    with pytest.raises(RuntimeError), Policy(low_load=0.9).applied():
        assert epoch.LOW_LOAD == 0.9
        raise RuntimeError
    assert before == epoch.LOW_LOAD


def test_the_figure_is_well_formed() -> None:
    """Every chart of it, on linear and logarithmic axes."""
    lines = {"a & b": [(1, 2.0), (10, 30.0)], "c": [(10, 0.5)]}
    text = svg([Chart("x < y", "x", "y", lines, log, not log) for log in (True, False)])
    root = ElementTree.fromstring(text)
    assert len(root.findall("{*}g")) == 2
    assert "nan" not in text


# -- for real ----------------------------------------------------------------------


def test_the_machine_is_measured() -> None:
    """The cycle of the micro-benchmark keeps the slots full."""
    line = micro_machine.machine_events(10, 5, cycles=10, repeats=2)
    assert line.spread.count == 2
    assert "35 live leases" in line.what


@pytest.mark.cluster
def test_everything_once(tmp_path: Path) -> None:
    """All backends on tiny workloads: values are right and all results are stored."""
    done = subprocess.run(
        [
            sys.executable, BENCHMARKS / "run.py", "--tiny", "--output", tmp_path,
            "--on", "ours", "pool", "dask", "--only", "tree", "one_at_a_time",
        ],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {run["problem"] for run in results["runs"]} == {None}
    assert len(results["runs"]) == 2 * 3
    for run in results["runs"]:
        ours = run["backend"] == "seamless-dask"
        assert run["stored_share"] == (1 if ours else None)
        assert run["cpu_seconds"].keys() >= (
            {"scheduler", "database"} if ours else set()
        )
    assert "distributed" in results["versions"]["seamless-dask"]
    assert (tmp_path / "results.html").stat().st_size > 100_000
    assert "seamless-dask" in (tmp_path / "results.txt").read_text()
