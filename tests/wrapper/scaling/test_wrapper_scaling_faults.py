"""Errors that nobody expects: after one of them scaling goes on.

A real cluster class, scheduler and batch system (one that lies), in this process.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager

import pytest
from dask_jobqueue import SLURMCluster
from dask_jobqueue.slurm import SLURMJob
from distributed import Worker
from distributed.metrics import monotonic
from helpers.lying_batch import LyingBatch
from helpers.schedulers import asynchronous, until

import scheduler_ext
from seamless_dask.wrapper.jobs.queues import QUEUES
from seamless_dask.wrapper.jobs.signs_of_life import Signs
from seamless_dask.wrapper.scaling.batch import BatchAdaptive
from seamless_dask.wrapper.scaling.fleet import Rules

pytestmark = pytest.mark.cluster

NAME = "svc-0a1b2c3d"
RULES = Rules(retry=0.1, retry_most=0.2, query=0.3, hidden=1.0, search=0.3)


class SiteJob(SLURMJob):
    """A class of a site that fails on an answer that it does not know."""

    def _job_id_from_submit_output(self, output):
        return {}[output]


class SiteCluster(SLURMCluster):
    job_cls = SiteJob


class LateJob(SLURMJob):
    """A class of a site; `then` are called, one at each job that is made."""

    then = []

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        if self.then:
            self.then.pop(0)()


class LateCluster(SLURMCluster):
    job_cls = LateJob


class Fixed:
    """A policy that wants a fixed number of workers."""

    workers = 1

    def decide(self, demand, have, now):
        return self.workers, "as the test says"


@asynccontextmanager
async def fleet_of(tmp_path, monkeypatch, cluster_class=SLURMCluster, **lies):
    """(the batch system, what scales, its scheduler plugin, its policy)."""
    batch = LyingBatch("slurm", tmp_path / "batch", **lies)
    monkeypatch.setenv("PATH", batch.environment["PATH"])
    async with cluster_class(
        cores=1,
        memory="1GB",
        job_name=NAME,
        log_directory=str(tmp_path / "output"),
        scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
        asynchronous=True,
    ) as cluster:
        plugin = scheduler_ext.attach(cluster.scheduler)
        adaptive = BatchAdaptive(
            cluster,
            plugin=plugin,
            policy=(policy := Fixed()),
            queue=QUEUES["slurm"].of(NAME),
            rules=RULES,
            signs=Signs(None),
            processes=1,
            on_news=lambda news: None,
            interval="50 ms",
        )
        try:
            yield batch, adaptive, plugin, policy
        finally:
            await adaptive.end(10.0)


@asynchronous
async def test_jobs_are_submitted_when_their_output_directory_is_back(
    tmp_path, monkeypatch
):
    """Its file system may be away for a moment; the batch system was not asked then."""
    output = tmp_path / "output"
    async with fleet_of(tmp_path, monkeypatch) as (batch, adaptive, plugin, policy):
        policy.workers = 0
        shutil.rmtree(output)
        output.symlink_to(tmp_path / "away")
        policy.workers = 2
        refusals = adaptive.fleet.refusals
        await until(lambda: refusals.failures >= 3)
        error = plugin.scaling.snapshot()["submission_error"]
        assert "FileExistsError" in error["message"]
        assert "may have taken it" not in error["message"]
        assert not batch.jobs()
        output.unlink()
        await until(lambda: len(batch.jobs()) == 2)
        await until(lambda: not refusals.failures and not adaptive.fleet.submitting)
        assert set(adaptive.fleet.jobs) == set(batch.jobs())


@asynchronous
async def test_nodes_stay_excluded_if_the_batch_system_was_not_asked(
    tmp_path, monkeypatch
):
    """Its program may be away for a moment: it has not refused to avoid them."""
    program = tmp_path / "batch" / "bin" / "sbatch"
    away = tmp_path / "away"
    async with fleet_of(tmp_path, monkeypatch, LateCluster) as (
        batch,
        adaptive,
        plugin,
        policy,
    ):
        await until(lambda: adaptive.fleet.jobs)
        monkeypatch.setenv("PATH", str(program.parent))  # a real one may be installed
        program.rename(away)
        LateJob.then[:] = [lambda: None, lambda: away.rename(program)]
        for _ in range(5):
            adaptive.fleet.nodes.failed("n1", "the test says so", monotonic())
        policy.workers = 2
        await until(lambda: len(adaptive.fleet.jobs) == 2)
        assert list(adaptive.fleet.nodes.excluded) == ["n1"]
        assert [job.avoids for job in adaptive.fleet.jobs.values()] == [(), ("n1",)]


@asynchronous
async def test_a_job_is_found_if_the_class_of_a_site_fails_after_its_submission(
    tmp_path, monkeypatch, caplog
):
    """Nobody knows at once whether the batch system has taken it."""
    lies = {"answer": "Willkommen!"}
    async with fleet_of(tmp_path, monkeypatch, SiteCluster, **lies) as (
        batch,
        adaptive,
        plugin,
        policy,
    ):
        policy.workers = 2
        await until(lambda: len(adaptive.fleet.jobs) == 2)
        assert set(adaptive.fleet.jobs) == set(batch.jobs())
    assert not batch.jobs()
    faults = [each for each in caplog.records if each.exc_info]
    assert [each.message for each in faults] == ["Scaling: a step failed"]


@asynchronous
async def test_a_job_whose_workers_could_not_retire_is_ended_later(
    tmp_path, monkeypatch
):
    """It does not count as one that leaves."""
    async with fleet_of(tmp_path, monkeypatch) as (batch, adaptive, plugin, policy):
        scheduler = adaptive._dask_scheduler
        jobs = adaptive.fleet.jobs
        await until(lambda: jobs)
        [job] = jobs.values()
        real, failures = scheduler.retire_workers, []

        async def retire_workers(*args, **options):
            if not failures:
                failures.append(job.state)
                raise OSError("the connection is lost")
            return await real(*args, **options)

        monkeypatch.setattr(scheduler, "retire_workers", retire_workers)
        name = f"worker-{job.id}"
        async with Worker(
            scheduler.address, name=name, nthreads=1, dashboard_address="127.0.0.1:0"
        ):
            await until(lambda: job.state == "connected")
            policy.workers = 0
            await until(lambda: not batch.jobs())
    assert failures == ["draining"]
