"""The figures of one worker, from the permission machine alone."""

from __future__ import annotations

from scheduler_ext.permission.events import Start
from scheduler_ext.permission.machine import PermissionMachine
from scheduler_ext.permission.needs import NESTED, TOP_LEVEL
from scheduler_ext.view import workers

WORKER = "tcp://worker:1"


def test_a_slot_that_is_only_reserved_is_no_transformation_there() -> None:
    """Between the decision that a task may start and its sending."""
    machine = PermissionMachine()
    machine.add_worker(WORKER, 1, 2, None, 0.0)
    for number in range(2):
        assert machine.task_ready(f"nested-{number}", 1, 0.0, needs=NESTED) == WORKER
    assert machine.task_ready("top", 0, 0.0, needs=TOP_LEVEL) is None
    assert machine.task_left("nested-0", 0.0) == [Start("top")]
    expected = {"top_level": 0, "nested": 1, "waiting": 0, "storing": 0}
    assert workers.work(machine, WORKER) == expected
    assert machine.task_ready("top", 0, 0.0, needs=TOP_LEVEL) == WORKER
    assert workers.work(machine, WORKER) == {**expected, "top_level": 1}
    machine.task_stores("top", 0.0)
    assert workers.work(machine, WORKER) == {**expected, "top_level": 1, "storing": 1}
    machine.validate()
