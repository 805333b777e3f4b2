"""A Seamless process is lost, in a Dask worker that is a process of its own."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster
from helpers.patient_jobs import patient, running
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient, set_seamless_dask_client

pytestmark = pytest.mark.cluster


def test_real_worker_process(tmp_path: Path) -> None:
    """Under a nanny, where nothing is shared with the driver."""
    path = str(tmp_path)
    # daemonic processes must not have children
    with dask.config.set({"distributed.worker.daemon": False}):
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=3,
                dashboard_address=None,
                silence_logs=logging.ERROR,
                host="127.0.0.1",
            ) as cluster,
            Client(cluster, set_as_default=False) as dask_client,
        ):
            client = SeamlessDaskClient(dask_client, worker_plugin_workers=1)
            set_seamless_dask_client(client)
            try:
                tf = delayed(patient)(path, "job")
                tf.start()
                os.kill(running(tmp_path, "job"), signal.SIGKILL)
                running(tmp_path, "job", times=2)
                (tmp_path / "go").touch()
                assert tf.run() == "job"
            finally:
                set_seamless_dask_client(None)
