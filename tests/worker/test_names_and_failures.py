"""Names and failures of transformations that run on real workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.patient_jobs import running
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient

pytestmark = pytest.mark.cluster


def shown(dask_scheduler: Any) -> dict[str, Any]:
    """What the scheduler says of failures, and of unfinished transformations."""
    operations = dask_scheduler.plugins["seamless"].operations
    overview = operations.overview()
    return {
        "failures": operations.failures.answer()["failures"],
        "labels": [
            row["label"] for row in overview["with_workers"] + overview["waiting"]
        ],
    }


def simulate_failing(salt, catch):
    """Two levels of calls; the innermost fails, in a transformation of its own."""
    from seamless.transformer import delayed

    @delayed
    def dock_failing(salt, catch):
        from seamless.transformer import delayed

        @delayed
        def score_failing(salt):
            print("about to fail")
            raise ValueError(f"bad {salt} <b> \x1b[31m\ud800")

        try:
            return score_failing(salt).run()
        except Exception:
            if not catch:
                raise
        raise LookupError("of dock itself")

    return dock_failing(salt, catch).run()


@pytest.mark.parametrize("catch", [False, True])
def test_an_error_ends_with_what_to_ask_for(
    dummy: SeamlessDaskClient, catch: bool
) -> None:
    """Once, however many levels pass it on; an error of its own names its own."""
    tf = delayed(simulate_failing)(f"salt{catch}", catch)
    needs = delayed(lambda x: x + 1)(tf)
    needs.compute()
    seen = dummy.client.run_on_scheduler(shown)["failures"]
    mine = {each["name"]: each for each in seen[:4]}
    score, dock = mine["score_failing"], mine["dock_failing"]
    first = dock if catch else score
    last = f"why {first['checksum'][:12]}]"
    assert needs.exception is not None and tf.exception is not None
    for text in (needs.exception, tf.exception, dock["text"]):
        assert text.count("python -m seamless_dask.status why") == 1
        assert text.rstrip().endswith(last)
    assert score["callers"] == ("dock_failing", "simulate_failing")
    assert score["line"] == f"ValueError: bad salt{catch} <b> [31m\\ud800"
    assert "about to fail" in score["text"]
    assert score["cause"] is None
    cause = f"{first['name']} {first['checksum'][:12]}"
    assert dock["cause"] == (None if catch else cause)
    assert mine["simulate_failing"]["cause"] == cause
    assert seen[0]["cause"] == cause, "the one that needs the result"
    assert seen[0]["worker"] is not None


def test_callers_are_named_while_they_wait(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """Also those of a driver, whose calls ask for no lease."""
    outer = delayed(calls_patient)
    outer.driver = True
    tf = outer(str(tmp_path))
    tf.start()
    running(tmp_path, "inner")
    label = "patient < calls_patient"
    assert label in dummy.client.run_on_scheduler(shown)["labels"]
    (tmp_path / "go").touch()
    assert tf.run() == "inner"


def calls_patient(path):
    from seamless.transformer import delayed

    @delayed
    def patient(path, name):
        import os
        import time

        with open(f"{path}/{name}", "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(f"{path}/go"):
            time.sleep(0.02)
        return name

    return patient(path, "inner").run()
