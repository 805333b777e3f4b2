"""Whose fault the loss of a process is, in any history of jobs and losses."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from seamless_dask.pool.blame import MAX_LOSSES, Losses, charge, verdict


@dataclass(eq=False)
class Job:
    name: str
    waiting: int = 0
    losses: Losses = field(default_factory=Losses)


#: at each loss: for each of some jobs None (elsewhere), or how many calls it waits for
histories = st.lists(
    st.lists(st.sampled_from([None, 0, 0, 1, 3]), min_size=4, max_size=4), max_size=30
)


@given(histories)
def test_any_history(history: list[list[int | None]]) -> None:
    jobs = [Job(f"job {number}") for number in range(4)]
    #: of each job: losses while it executed, and while all that were there waited
    executed, unexplained = [0] * 4, [0] * 4
    for number, moment in enumerate(history):
        present = []
        for job, waiting in zip(jobs, moment, strict=True):
            if waiting is not None and verdict(job) is None:
                job.waiting = waiting
                present.append(job)
        before = {job: len(job.losses.charged) for job in present}
        charged = charge(present, f"cause {number}")
        for job in present:
            index = jobs.index(job)
            executes = not job.waiting
            nobody = all(other.waiting for other in present)
            executed[index] += executes
            unexplained[index] += nobody
            # One that waits is not charged while another one executes.
            expected = unexplained[index] >= MAX_LOSSES if nobody else executes
            assert (job in charged) == expected
            assert len(job.losses.charged) == before[job] + (job in charged)
            # It is given up at the third, and told how they ended.
            error = verdict(job)
            assert (error is not None) == (len(job.losses.charged) >= MAX_LOSSES)
            if error is not None:
                assert all(cause in error for cause in job.losses.charged)
        # None runs again for ever, whatever happens.
        for index, job in enumerate(jobs):
            late = max(0, unexplained[index] - MAX_LOSSES + 1)
            assert len(job.losses.charged) == executed[index] + late
            assert executed[index] + unexplained[index] <= 2 * MAX_LOSSES - 1
