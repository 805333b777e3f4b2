"""The wrapper, as a process, with a batch system that lies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Future
from helpers.lying_batch import LyingBatch
from helpers.wrapper_process import WrapperProcess, running, wait_for

pytestmark = pytest.mark.cluster

CLUSTERS = {
    "slurm": "dask_jobqueue::SLURMCluster",
    "sge": "dask_jobqueue::SGECluster",
    "oar": "dask_jobqueue::OARCluster",
}
PARAMETERS: dict[str, Any] = {
    "pure_dask": True,
    "cores": 1,
    "memory": "1GB",
    "walltime": "01:00:00",
    "memory_per_core_property_name": "not_applicable",
}
CONFIG: dict[str, Any] = {
    "seamless-dask.queue-interval": "1s",
    "seamless-dask.queue-delay": "12s",
}
ASK = {"slurm": "squeue", "sge": "qstat", "oar": "oarstat"}
TIMED_OUT = {
    "slurm": "sbatch: error: Batch job submission failed: Socket timed out on "
    "send/recv operation",
    "sge": "error: commlib error: got read error (closing connection)",
    "oar": "DBI connect failed: could not connect to server 5",
}


class Wrapper(WrapperProcess):
    """A wrapper that submits to a batch system that lies."""

    def __init__(
        self,
        batch: LyingBatch,
        *,
        environment: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
        **parameters: Any,
    ):
        self.batch = batch
        self.clients: list[Client] = []
        self.futures: list[Future] = []
        super().__init__(
            batch.directory,
            {
                **PARAMETERS,
                "extra_dask_config": {**CONFIG, **(config or {})},
                **parameters,
            },
            cluster=CLUSTERS[batch.system],
            environment={**batch.environment, **(environment or {})},
        )

    def __exit__(self, *exception: object) -> None:
        for client in self.clients:
            client.close()
        super().__exit__(*exception)

    def work(self, count: int = 1) -> list[Future]:
        """Tasks for workers; they are wanted until the end."""
        self.until_running()
        client = Client(self.address())
        self.clients.append(client)
        self.futures = client.map(pow, range(count), [2] * count, pure=False)
        return self.futures

    def until(self, look: Any, what: str, seconds: float = 60) -> Any:
        def or_end() -> Any:
            assert self.process.poll() is None, self.output()
            return look()

        return wait_for(or_end, what, seconds)

    def until_log(self, text: str, seconds: float = 60) -> None:
        self.until(lambda: text in self.output(), f"in the log: {text}", seconds)

    def ask_to_end(self) -> int:
        """SIGINT; return the exit code."""
        for client in self.clients:
            client.close()
        self.clients = []
        self.process.send_signal(signal.SIGINT)
        return self.wait()


@pytest.fixture(params=["slurm", "sge", "oar"])
def batch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LyingBatch]:
    """A batch system in which jobs wait."""
    system = LyingBatch(request.param, tmp_path / "site of ours")
    yield system
    system.end_jobs()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[LyingBatch]:
    system = LyingBatch("slurm", tmp_path / "site")
    yield system
    system.end_jobs()


def test_a_greeting_around_every_answer(batch: LyingBatch) -> None:
    usual = {
        "slurm": "Submitted batch job {id} on cluster 3",
        "sge": 'Your job {id} ("x y") has been submitted',
        "oar": "OAR_JOB_ID={id}",
    }[batch.system]
    batch.lie(
        answer=f"*** Welcome to node 12 ***\n1 message\n{usual}\nBye, see you at 5!"
    )
    with Wrapper(batch, maximum_jobs=2) as wrapper:
        wrapper.work(100)
        jobs = wrapper.until(lambda: wrapper.status().get("jobs"), "a job")
        assert set(jobs) <= set(batch.jobs())
        assert wrapper.ask_to_end() == 0, wrapper.output()
    assert not batch.jobs()


def test_a_submission_that_only_seems_to_fail(batch: LyingBatch) -> None:
    """The job is found by its name; a job of the user that bears another one is not."""
    batch.lie(fail=TIMED_OUT[batch.system], accept=True)
    foreign = batch.add_foreign()
    with Wrapper(batch) as wrapper:
        wrapper.work(100)
        wrapper.until_log("was found in the queue by its name")
        (job,) = wrapper.until(lambda: wrapper.status().get("jobs"), "the status file")
        assert set(batch.jobs()) == {job, foreign}
        wrapper.until(lambda: "submission_error" not in wrapper.status(), "no error")
        assert wrapper.ask_to_end() == 0, wrapper.output()
    assert set(batch.jobs()) == {foreign}


def test_an_answer_that_nobody_understands(batch: LyingBatch) -> None:
    batch.lie(answer="Thank you, you are number {id} or 12")
    with Wrapper(batch) as wrapper:
        wrapper.work(100)
        wrapper.until_log("was found in the queue by its name")
        assert "holds no id of a job that is certain" in wrapper.output()
        assert len(batch.jobs()) == 1
        assert wrapper.ask_to_end() == 0, wrapper.output()
    assert not batch.jobs()


def test_answers_that_repeat_the_id_of_an_earlier_job(batch: LyingBatch) -> None:
    """Every submission makes a job; those whose id is not said are found by their name."""
    answer = {
        "slurm": "Submitted batch job 1000",
        "sge": 'Your job 1000 ("x") has been submitted',
        "oar": "OAR_JOB_ID=1000",
    }[batch.system]
    batch.lie(answer=answer)
    with Wrapper(batch, maximum_jobs=3) as wrapper:
        wrapper.work(10000)
        wrapper.until(
            lambda: len(wrapper.status().get("jobs", {})) == 3, "three known jobs"
        )
        assert "holds the id of an earlier job, 1000" in wrapper.output()
        answers = len(batch.calls(ASK[batch.system])) + 3
        wrapper.until(
            lambda: len(batch.calls(ASK[batch.system])) > answers, "more questions"
        )
        assert set(batch.jobs()) == set(wrapper.status()["jobs"])
        assert len(batch.jobs()) == 3
        assert wrapper.ask_to_end() == 0, wrapper.output()
    assert not batch.jobs()


def test_the_end_while_a_submission_hangs(batch: LyingBatch) -> None:
    """It was accepted, and nobody was told; the guard stays until it can be seen."""
    batch.lie(hang=True, hidden=5)
    with Wrapper(batch) as wrapper:
        wrapper.work()
        wrapper.until(batch.jobs, "a job")
        below = wrapper.below()
        assert wrapper.ask_to_end() == 9, wrapper.output()
        assert "any named dask-worker-" in wrapper.output()
    wait_for(lambda: not batch.jobs(), "an empty queue", 90)
    wait_for(lambda: not running(below), "the end of the guard", 90)


def test_a_wrapper_that_is_killed_while_a_submission_hangs(slurm: LyingBatch) -> None:
    slurm.lie(hang=True)
    with Wrapper(slurm) as wrapper:
        wrapper.work()
        wrapper.until(slurm.jobs, "a job")
        below = wrapper.below()
        for client in wrapper.clients:
            client.close()
        wrapper.clients = []
        wrapper.process.kill()
        wait_for(lambda: not slurm.jobs(), "an empty queue")
        for process in below:  # sbatch is not ours any more
            if process.is_running() and "hang" not in process.cmdline():
                if "sbatch" in " ".join(process.cmdline()):
                    process.kill()
        wait_for(lambda: not running(below), "the end of the guard", 120)


def test_jobs_that_cannot_be_seen_yet(batch: LyingBatch) -> None:
    batch.lie(hidden=7)
    with Wrapper(batch, maximum_jobs=2) as wrapper:
        wrapper.work(100)
        wrapper.until(batch.jobs, "a job")
        first = set(batch.jobs())
        answers = len(batch.calls(ASK[batch.system])) + 4
        wrapper.until(
            lambda: len(batch.calls(ASK[batch.system])) > answers,
            "some answers without the job",
        )
        assert len(batch.jobs()) <= 2 and first <= set(batch.jobs())
        assert wrapper.ask_to_end() == 0, wrapper.output()
    assert not batch.jobs()


def test_an_empty_answer_with_code_0_and_an_error_message(batch: LyingBatch) -> None:
    """The jobs are taken to be there, neither replaced nor forgotten at the end."""
    with Wrapper(batch) as wrapper:
        wrapper.work(100)
        wrapper.until(lambda: batch.calls(ASK[batch.system]), "a question to the queue")
        first = set(batch.jobs())
        batch.lie(pretend=f"Welcome\n{TIMED_OUT[batch.system]}")
        wrapper.until_log("shows none of our jobs and says: ")
        answers = len(batch.calls(ASK[batch.system])) + 4
        wrapper.until(
            lambda: len(batch.calls(ASK[batch.system])) > answers, "some empty answers"
        )
        assert set(batch.jobs()) == first, wrapper.output()
        batch.lie()
        wrapper.until_log("The queue answers again")
        assert wrapper.ask_to_end() == 0, wrapper.output()
    assert not batch.jobs()


def test_variables_of_the_user_do_not_reach_the_commands(slurm: LyingBatch) -> None:
    user = {
        "SBATCH_TIMELIMIT": "1",
        "SBATCH_JOB_NAME": "mine",
        "SBATCH_WAIT": "1",
        "SQUEUE_STATES": "COMPLETED",
        "SQUEUE_FORMAT": "%u",
        "SCANCEL_INTERACTIVE": "1",
        "SBATCH_ACCOUNT": "grant",
    }
    with Wrapper(slurm, environment=user) as wrapper:
        wrapper.work()
        wrapper.until(lambda: slurm.calls("squeue"), "a question to the queue")
        assert "SBATCH_TIMELIMIT" in wrapper.output()
        assert wrapper.ask_to_end() == 0
    for command in ("sbatch", "squeue", "scancel"):
        seen: set[str] = set()
        for call in slurm.calls(command):
            seen |= set(call["environment"])
        left = {
            name for name in seen if name.startswith(("SBATCH", "SQUEUE", "SCANCEL"))
        }
        sbatch = {"SBATCH_ACCOUNT", "SBATCH_NO_REQUEUE"}
        assert left == (sbatch if command == "sbatch" else set())


@pytest.mark.parametrize("batch", ["slurm", "oar"], indirect=True)
def test_jobs_that_end_well_without_a_worker_have_failed(batch: LyingBatch) -> None:
    """And their node is avoided, unless that leaves none: then the reason stays visible."""
    batch.lie(run=True, exclusions="Requested node configuration is not available")
    prologue = ["if true; then echo no licence; exit 0; fi"]
    with Wrapper(batch, job_script_prologue=prologue) as wrapper:
        wrapper.work()
        wrapper.until_log("excluded nodes (n1) may get jobs again", 120)
        error = wrapper.status()["submission_error"]
        assert "ended before its worker connected" in error
        assert "configuration" not in error
        assert len(batch.jobs()) <= 1
        assert wrapper.ask_to_end() == 0, wrapper.output()
    assert not batch.jobs()


def test_a_slow_prologue_that_goes_on_is_waited_for(slurm: LyingBatch) -> None:
    """Longer than the limit of 3 s and 15 s."""
    slurm.lie(run=True)
    with Wrapper(
        slurm,
        job_script_prologue=["for i in $(seq 25); do sleep 1; done"],
        config={"jobqueue.slurm.death-timeout": "3s"},
        worker_threads=1,
    ) as wrapper:
        (future,) = wrapper.work()
        wrapper.until(lambda: slurm.jobs(), "a job")
        wrapper.until(lambda: "connected from" in wrapper.output(), "the worker", 150)
        assert future.result(60) == 0
        assert len(slurm.calls("sbatch")) == 1, wrapper.output()
        assert wrapper.ask_to_end() == 0, wrapper.output()


def test_a_prologue_that_hangs_is_explained(slurm: LyingBatch) -> None:
    slurm.lie(run=True)
    with Wrapper(
        slurm,
        job_script_prologue=["sleep 1000"],
        config={"jobqueue.slurm.death-timeout": "5s"},
    ) as wrapper:
        wrapper.work()
        error = wrapper.until(
            lambda: wrapper.status().get("submission_error"), "an error"
        )
        assert (
            "the limit is 20 s, jobqueue.slurm.death-timeout (5 s) plus 15 s" in error
        )
        assert wrapper.ask_to_end() == 0, wrapper.output()
    assert not slurm.jobs()


def test_the_user_chooses_the_first_part_of_the_name(slurm: LyingBatch) -> None:
    with Wrapper(slurm, job_extra_directives=["#SBATCH -J mine"]) as wrapper:
        wrapper.work()
        jobs = wrapper.until(slurm.jobs, "a job")
        (name,) = {job["name"] for job in jobs.values()}
        assert name.startswith("mine-") and len(name) > 10
        assert os.fspath(wrapper.status_file)
        assert wrapper.ask_to_end() == 0


def test_commands_that_leave_a_process_behind_with_their_output(
    batch: LyingBatch,
) -> None:
    """Their answer is there when they have ended, not when nobody can write any more."""
    batch.lie(linger=True)
    with Wrapper(batch, maximum_jobs=2) as wrapper:
        wrapper.work(100)
        jobs = wrapper.until(lambda: wrapper.status().get("jobs"), "a job")
        assert set(jobs) <= set(batch.jobs())
        wrapper.until(lambda: batch.calls(ASK[batch.system]), "a question to the queue")
        assert wrapper.ask_to_end() == 0, wrapper.output()
        assert "Traceback" not in wrapper.output()
        assert "took longer" not in wrapper.output()
    assert not batch.jobs()
    wait_for(lambda: not batch.lingering(), "nothing left of the commands", 10)
