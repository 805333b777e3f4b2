"""The wrapper on a real SLURM: what it wants, what the queue has, and what goes wrong."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, Future
from helpers.batch_systems import BatchSystem
from helpers.wrapper_process import WrapperProcess, running, wait_for

pytestmark = pytest.mark.cluster

#: How long a worker looks for its scheduler; the default is 60 s.
DEATH_TIMEOUT = 20
#: How often the queue may be asked; the default is 30 s.
QUEUE_INTERVAL = 1
PARAMETERS: dict[str, Any] = {
    "pure_dask": True,
    "cores": 2,
    "worker_threads": 2,
    "memory": "2GB",
    "walltime": "00:10:00",
    "maximum_jobs": 3,
    "unknown-task-duration": "10m",
    "target-duration": "10s",
    "extra_dask_config": {
        "jobqueue.slurm.death-timeout": DEATH_TIMEOUT,
        "seamless-dask.queue-interval": f"{QUEUE_INTERVAL}s",
        "seamless-dask.idle-time": "2s",
    },
}


def wait_for_file(path: str, log: str = "") -> str | None:
    """A task that ends when somebody makes a file; says where it ran."""
    if log:
        with open(log, "a") as handle:
            handle.write("start\n")
    while not os.path.exists(path):
        time.sleep(0.05)
    return os.environ.get("SLURM_JOB_ID")


class Wrapper(WrapperProcess):
    """A wrapper that submits to the SLURM of the test."""

    def __init__(
        self,
        slurm: BatchSystem,
        directory: Path,
        *,
        environment: dict[str, str] | None = None,
        service: str = "status",
        **parameters: Any,
    ):
        self.slurm = slurm
        self.directory = directory
        self.gate = directory / "gate"
        self._clients = contextlib.ExitStack()
        super().__init__(
            directory,
            {**PARAMETERS, "tmpdir": str(directory), **parameters},
            cluster="dask_jobqueue::SLURMCluster",
            # where the output of jobs goes
            environment={
                **slurm.environment,
                "HOME": str(directory),
                **(environment or {}),
            },
            service=service,
        )

    def __exit__(self, *exception: object) -> None:
        self.gate.touch()
        try:
            self._clients.close()
        finally:
            super().__exit__(*exception)

    def client(self) -> Client:
        self.until_running()
        return self._clients.enter_context(Client(self.address()))

    def work(self, client: Client, count: int, log: str = "") -> list[Future]:
        """Tasks that go on until the gate opens."""
        return client.map(
            wait_for_file, [str(self.gate)] * count, log=log, pure=False, retries=0
        )

    def queue(self) -> dict[str, str]:
        """What squeue says: {job id: state}."""
        lines = self.slurm.run("squeue", "-h", "-o", "%i %t").splitlines()
        return dict(line.split() for line in lines)

    def states(self) -> Counter[str]:
        return Counter(self.queue().values())

    def until(self, look: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        def or_end() -> Any:
            assert self.process.poll() is None, self.output()
            return look()

        try:
            return wait_for(or_end, what, seconds)
        except AssertionError:
            print(self.queue(), self.output())
            raise

    def until_log(self, text: str, seconds: float = 60) -> None:
        self.until(lambda: text in self.output(), f"in the log: {text}", seconds)


@pytest.fixture
def nodes(slurm: BatchSystem) -> Iterator[BatchSystem]:
    """SLURM, with all nodes in use and without jobs afterwards."""
    yield slurm
    slurm.run("scancel", "--user=root", check=False)
    slurm.run("scontrol", "update", "NodeName=ALL", "State=RESUME", check=False)
    wait_for(lambda: not slurm.run("squeue", "-h"), "an empty queue")


@contextlib.contextmanager
def drained(slurm: BatchSystem) -> Iterator[None]:
    """No job starts."""
    slurm.run("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=test")
    try:
        yield
    finally:
        slurm.run("scontrol", "update", "NodeName=ALL", "State=RESUME")


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_up_and_down_with_the_work(
    nodes: BatchSystem, tmp_path: Path, processes: int
) -> None:
    """Several workers in one job come and go together, and none is busy when it goes."""
    with Wrapper(
        nodes,
        tmp_path,
        cores=processes,
        processes=processes,
        worker_threads=1,
        maximum_jobs=2,
        **{"target-duration": "1s"},
    ) as wrapper:
        client = wrapper.client()
        assert not wrapper.queue()
        futures = wrapper.work(client, 4 * processes)
        wrapper.until(lambda: wrapper.states() == {"R": 2}, "two jobs")
        client.wait_for_workers(2 * processes)
        wrapper.until(lambda: all(client.processing().values()), "all are busy")
        names = {row["name"] for row in client.scheduler_info(-1)["workers"].values()}
        assert {name.split("-")[1] for name in names} == set(wrapper.queue())
        wrapper.gate.touch()
        assert len(set(client.gather(futures))) == 2
        del futures
        wrapper.until(lambda: not wrapper.queue(), "no job", 90)
        assert wrapper.process.poll() is None
        assert "Wanted jobs: 2" in wrapper.output()
        assert "Wanted jobs: 0" in wrapper.output()


def test_a_busy_worker_is_never_chosen(nodes: BatchSystem, tmp_path: Path) -> None:
    with Wrapper(nodes, tmp_path, worker_threads=1, maximum_jobs=2) as wrapper:
        client = wrapper.client()
        log = tmp_path / "log"
        busy = client.submit(wait_for_file, str(wrapper.gate), str(log), retries=0)
        wrapper.until(lambda: wrapper.states() == {"R": 1}, "a job")
        short = client.submit(wait_for_file, "/", workers=[], pure=False)
        wrapper.until(lambda: wrapper.states() == {"R": 2}, "another job")
        keeper = busy.key
        assert short.result(60) in wrapper.queue()
        del short
        wrapper.until(lambda: wrapper.states() == {"R": 1}, "one job less", 90)
        wrapper.gate.touch()
        assert busy.result(60) in wrapper.queue()
        assert log.read_text() == "start\n", keeper


# --- what goes wrong


def test_refused_jobs_are_tried_again_and_explained(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    """No such partition; when an administrator makes it, all is well."""
    with Wrapper(nodes, tmp_path, partition="later", maximum_jobs=1) as wrapper:
        client = wrapper.client()
        futures = wrapper.work(client, 1)
        wrapper.until_log("invalid partition specified: later")
        error = wrapper.until(
            lambda: wrapper.status().get("submission_error"), "the status file"
        )
        assert "invalid partition specified: later" in error
        nodes.run("scontrol", "create", "PartitionName=later", "Nodes=n1,n2")
        try:
            wrapper.gate.touch()
            assert futures[0].result(90)
            wrapper.until(
                lambda: "submission_error" not in wrapper.status(), "no error any more"
            )
            assert len(wrapper.status()["jobs"]) == 1
        finally:
            nodes.run("scancel", "--partition=later")
            wait_for(lambda: not nodes.run("squeue", "-h", "-p", "later"), "no job")
            nodes.run("scontrol", "delete", "PartitionName=later")


def test_a_job_cancelled_by_hand_is_replaced(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    """Also more often than Dask would let a task lose its worker."""
    with Wrapper(nodes, tmp_path, maximum_jobs=1, worker_threads=1) as wrapper:
        client = wrapper.client()
        client.run_on_scheduler(_allow_one_failure)
        futures = wrapper.work(client, 1)
        known: set[str] = set()
        for _ in range(3):
            wrapper.until(
                lambda: "R" in wrapper.queue().values() and client.processing() != {},
                "a job that works",
            )
            wrapper.until(lambda: any(client.processing().values()), "a busy worker")
            (job,) = wrapper.queue()
            assert job not in known
            known.add(job)
            nodes.run("scancel", job)
            wrapper.until_log(f"job {job} has ended: CA")
        wrapper.gate.touch()
        assert futures[0].result(60) not in known


def _allow_one_failure(dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = 1


def test_a_held_job_is_noticed_and_a_pending_one_waited_for(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    with Wrapper(nodes, tmp_path, maximum_jobs=1) as wrapper:
        client = wrapper.client()
        with drained(nodes):
            futures = wrapper.work(client, 1)
            (job,) = wrapper.until(wrapper.queue, "a pending job")
            nodes.run("scontrol", "hold", job)
            wrapper.until_log(f"job {job} is held in the queue (JobHeld")
            nodes.run("scontrol", "release", job)
        wrapper.gate.touch()
        assert futures[0].result(90) == job


def test_a_job_that_never_connects_is_replaced_and_its_node_avoided(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    with Wrapper(
        nodes,
        tmp_path,
        maximum_jobs=1,
        job_script_prologue=["[ $SLURMD_NODENAME = n1 ] && exit 3"],
    ) as wrapper:
        client = wrapper.client()
        futures = wrapper.work(client, 1)
        wrapper.until_log("node n1 gets no new jobs for 10 min")
        assert "ended before its worker connected, on n1" in wrapper.output()
        wrapper.gate.touch()
        assert futures[0].result(90)
        status = client.sync(client.scheduler.seamless_status)
        assert set(status["scaling"]["excluded_nodes"]) == {"n1"}
        assert status["cluster"]["batch_system"] == "slurm"
        assert status["cluster"]["kind"] == "dask_jobqueue::SLURMCluster"

        def left() -> float | None:
            status = client.sync(client.scheduler.seamless_status)
            return status["cluster"]["walltime_in"]

        seconds = wrapper.until(left, "the time of the job that works")
        assert 0 < seconds <= status["cluster"]["walltime"]


def test_a_job_that_hangs_before_it_connects_is_cancelled(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    flag = tmp_path / "once"
    with Wrapper(
        nodes,
        tmp_path,
        maximum_jobs=1,
        job_script_prologue=[f"[ -e {flag} ] || {{ touch {flag}; sleep 1000; }}"],
    ) as wrapper:
        client = wrapper.client()
        futures = wrapper.work(client, 1)
        (job,) = wrapper.until(wrapper.queue, "a job")
        wrapper.until_log(f"Cancelling job {job}: it ran on n", 90)
        wrapper.gate.touch()
        assert futures[0].result(90) != job


def test_a_dead_node_costs_no_task(nodes: BatchSystem, tmp_path: Path) -> None:
    """slurmd and everything below it die; SLURM notices after a while."""
    with Wrapper(nodes, tmp_path, maximum_jobs=1, worker_threads=1) as wrapper:
        client = wrapper.client()
        client.run_on_scheduler(_allow_one_failure)
        futures = wrapper.work(client, 1)
        wrapper.until(lambda: any(client.processing().values()), "a busy worker")
        node = nodes.run("squeue", "-h", "-o", "%N").strip()
        _kill_node(nodes, node)
        try:
            wrapper.gate.touch()
            assert futures[0].result(150)
        finally:
            _start_node(nodes, node)


def _kill_node(slurm: BatchSystem, node: str) -> None:
    pid_file = slurm.directory / "run" / f"slurmd-{node}.pid"
    doomed = [psutil.Process(int(pid_file.read_text()))]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURMD_NODENAME") == node:
                doomed += [process, *process.parents()[:1]]
    for process in doomed:
        if process.pid != 1:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _start_node(slurm: BatchSystem, node: str) -> None:
    subprocess.run(
        ["/usr/sbin/slurmd", "-N", node],
        env={**os.environ, **slurm.environment},
        check=True,
    )


def test_walltime_and_lifetime_cost_no_work(nodes: BatchSystem, tmp_path: Path) -> None:
    """Workers come and go while tasks run: each task is executed once."""
    log = tmp_path / "log"
    with Wrapper(
        nodes,
        tmp_path,
        maximum_jobs=2,
        worker_threads=2,
        walltime="00:02:00",
        lifetime="8s",
        **{"lifetime-stagger": "1s"},
    ) as wrapper:
        client = wrapper.client()
        futures = client.map(_sleep_and_log, [str(log)] * 36, pure=False, retries=0)
        jobs = set(client.gather(futures))
        assert len(jobs) > 2
        assert log.read_text().count("start") == 36
        assert "KilledWorker" not in wrapper.output()


def _sleep_and_log(log: str) -> str | None:
    with open(log, "a") as handle:
        handle.write("start\n")
    time.sleep(2)
    return os.environ.get("SLURM_JOB_ID")


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("status", "dask-worker"),
        ("daskserver-big-rw-2nd pröject--sub", "seamless-2nd_pr_ject-sub"),
    ],
)
def test_a_submission_that_only_seems_to_fail(
    nodes: BatchSystem, tmp_path: Path, service: str, name: str
) -> None:
    """Pending or running, the job is found by its name; nobody else's is touched."""
    lie = "sbatch: error: Batch job submission failed: Socket timed out on send/recv"
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/bash\n/usr/bin/sbatch \"$@\" >/dev/null\necho '{lie}' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    script = tmp_path / "theirs.sh"
    script.write_text("#!/bin/sh\nsleep 300\n")
    nodes.run("sbatch", f"--job-name={name}", "--output=/dev/null", str(script))
    with Wrapper(
        nodes, tmp_path, maximum_jobs=2, environment={"PATH": path}, service=service
    ) as wrapper:
        foreign = set(wrapper.queue())
        client = wrapper.client()
        with drained(nodes):
            futures = wrapper.work(client, 8)
            wrapper.until(lambda: len(wrapper.queue()) == 3, "two jobs of ours")
            wrapper.until(lambda: len(wrapper.status().get("jobs", [])) == 2, "known")
            names = nodes.run("squeue", "-h", "-o", "%j").split()
        names.remove(name)
        assert len(set(names)) == 1 and re.fullmatch(f"{name}-[0-9a-f]{{8}}", names[0])
        wrapper.gate.touch()
        jobs = set(client.gather(futures))
        assert jobs <= set(wrapper.status()["jobs"]) and not jobs & foreign
        assert "was found in the queue by its name" in wrapper.output()
    left = {job for job, state in wrapper.queue().items() if state != "CG"}
    assert left == foreign


def test_an_array_is_one_job_and_variables_hide_nothing(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    """Two workers of one job; what the user's login sets would hide it."""
    login = {
        "SQUEUE_STATES": "COMPLETED",
        "SQUEUE_FORMAT": "%u",
        "SQUEUE_PARTITION": "none",
        "SBATCH_TIMELIMIT": "1",
        "SBATCH_WAIT": "1",
        "SCANCEL_STATE": "SUSPENDED",
    }
    with Wrapper(
        nodes,
        tmp_path,
        maximum_jobs=1,
        environment=login,
        job_extra_directives=["#SBATCH --array=1-2"],
    ) as wrapper:
        client = wrapper.client()
        futures = wrapper.work(client, 8)
        client.wait_for_workers(2)
        assert not any(future.done() for future in futures)
        (job,) = wrapper.status()["jobs"]
        assert set(wrapper.queue()) == {f"{job}_1", f"{job}_2"}
        limits = nodes.run("squeue", "-h", "-o", "%l").split()
        assert set(limits) == {"10:00"}
        wrapper.gate.touch()
        client.gather(futures)
    assert set(wrapper.queue().values()) <= {"CG"}


# --- the end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_running_and_pending_jobs(
    nodes: BatchSystem, tmp_path: Path, number: int
) -> None:
    with Wrapper(nodes, tmp_path, maximum_jobs=6, cores=60) as wrapper:
        client = wrapper.client()
        futures = wrapper.work(client, 12)
        wrapper.until(lambda: wrapper.states() == {"R": 4, "PD": 2}, "all jobs")
        client.wait_for_workers(4)
        assert not any(future.done() for future in futures)
        begin = time.monotonic()
        os.kill(wrapper.process.pid, number)
        assert wrapper.wait() == 0, wrapper.output()
        assert time.monotonic() - begin < 15
        # completing: SLURM cleans up
        assert set(wrapper.queue().values()) <= {"CG"}
        assert not wrapper.status_file.exists()


def test_the_timeout_ends_what_is_left(nodes: BatchSystem, tmp_path: Path) -> None:
    with Wrapper(nodes, tmp_path, interactive=True, timeout=5) as wrapper:
        wrapper.until_log("Submitted job")
        assert wrapper.wait() == 0, wrapper.output()
        assert "Cancelling all jobs" in wrapper.output()
        assert set(wrapper.queue().values()) <= {"CG"}


def test_a_killed_wrapper_leaves_no_job_and_says_so(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    with Wrapper(nodes, tmp_path, maximum_jobs=6, cores=60) as wrapper:
        client = wrapper.client()
        futures = wrapper.work(client, 12)
        wrapper.until(lambda: wrapper.states() == {"R": 4, "PD": 2}, "all jobs")
        below = wrapper.below()
        assert not any(future.done() for future in futures)
        wrapper.process.kill()
        wait_for(lambda: not wrapper.queue(), "an empty queue", DEATH_TIMEOUT + 15)
        assert wrapper.status()["status"] == "failed"
        assert "killed" in wrapper.status()["error"]
        wait_for(lambda: not running(below), "the end of the guard")


def test_jobs_that_cannot_be_cancelled_are_named(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    """The controller is away in the end; when it comes back, the guard cleans up."""
    with Wrapper(nodes, tmp_path, maximum_jobs=1) as wrapper:
        client = wrapper.client()
        futures = wrapper.work(client, 1)
        wrapper.until(lambda: any(client.processing().values()), "a busy worker")
        (job,) = wrapper.queue()
        assert not futures[0].done()
        below = wrapper.below()
        pid = int((nodes.directory / "run" / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        try:
            os.kill(wrapper.process.pid, signal.SIGINT)
            assert wrapper.wait() == 9, wrapper.output()
            assert f"Jobs that may be left in the queue: {job}" in wrapper.output()
        finally:
            subprocess.run(
                ["/usr/sbin/slurmctld"],
                env={**os.environ, **nodes.environment},
                check=True,
            )
        wait_for(lambda: "All jobs of the wrapper have gone" in wrapper.output(), "")
        wait_for(lambda: not running(below), "the end of the guard")
        assert not wrapper.queue()


def test_jobs_are_submitted_when_the_controller_is_back(
    nodes: BatchSystem, tmp_path: Path
) -> None:
    with Wrapper(nodes, tmp_path, maximum_jobs=1) as wrapper:
        client = wrapper.client()
        pid = int((nodes.directory / "run" / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        try:
            futures = wrapper.work(client, 1)
            wrapper.until_log("the batch system took no job", 120)
        finally:
            subprocess.run(
                ["/usr/sbin/slurmctld"],
                env={**os.environ, **nodes.environment},
                check=True,
            )
        wrapper.gate.touch()
        assert futures[0].result(120)
