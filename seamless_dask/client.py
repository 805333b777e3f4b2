"""The client: prepares a Dask cluster for Seamless and submits transformations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from distributed import Client

from .cluster import record_mode, scheduler, selection
from .cluster.environment import SCHEDULER_ENV
from .neighbours import bounded_tables, client_process
from .neighbours.check import check as check_neighbours
from .neighbours.names import Where
from .neighbours.services import of_current_stage
from .submit.submitter import Role, Submitter
from .worker import installation

__all__ = ["SeamlessDaskClient"]

#: seconds for which a driver script that has lost the scheduler looks for it; as long as
#: hashserver and database may be away
RECONNECT = 60.0


class SeamlessDaskClient(Submitter):
    """Submits transformations to the cluster of a `distributed.Client`.

    Parameters
    ----------
    dask_client
        A synchronous client; the caller remains responsible for closing it.
    worker_plugin_workers
        Seamless processes that each Dask worker is to run. None: what the wrapper
        has published (its parameter ``cores``), otherwise one.
    remote_clients
        The hashservers and databases that workers use, as
        ``seamless_config.extern_clients.collect_remote_clients`` returns them. None:
        use the cluster as another client has configured it.
    is_local_cluster, interactive
        Facts about the cluster from its launcher; for information only.
    role
        ``"driver"``: the client of a driver script. ``"worker"``: the client of a
        Dask worker, for the nested work of its transformations. ``"inner"``: the
        client of a process that a transformation has started (for instance
        ``seamless-run`` in a bash job); its submissions are nested work. Default:
        ``"inner"`` when the environment names the scheduler of the surrounding worker
        and `remote_clients` is None, otherwise ``"driver"``.
    on_detach
        Called without arguments when this process stops using the client.

    Raises
    ------
    RuntimeError
        If the scheduler runs without the Seamless plugin and does not let clients
        install it, or with the plugin of another version. If the cluster's record
        mode is not that of this process. A `NeighbourChanged` if this version cannot
        work with the installed packages.
    """

    def __init__(
        self,
        dask_client: Client,
        *,
        worker_plugin_workers: int | None = None,
        remote_clients: Mapping[str, Any] | None = None,
        is_local_cluster: bool = False,
        interactive: bool = False,
        role: Role | None = None,
        on_detach: Callable[[], None] | None = None,
    ) -> None:
        if role is None:
            surrounded = SCHEDULER_ENV in os.environ and remote_clients is None
            role = "inner" if surrounded else "driver"
        if role != "worker":  # on a worker, the plugin has checked them
            check_neighbours(Where.DRIVER)
        client_process.prepare()
        super().__init__(dask_client, role=role)
        if role == "driver" and remote_clients is not None:
            remote_clients = of_current_stage(remote_clients)
        published = installation.ensure_plugin(dask_client) if role == "driver" else {}
        if worker_plugin_workers is None:
            worker_plugin_workers = published.get(scheduler.PROCESSES, 1)
        self.worker_plugin_workers = int(worker_plugin_workers)
        self.remote_clients = remote_clients
        self.is_local_cluster = bool(is_local_cluster)
        self.interactive = bool(interactive)
        self._on_detach = on_detach
        if role == "driver":
            self._configure_cluster(published)
            # From now on, this is how long it tries to find the scheduler again.
            dask_client._timeout = max(dask_client._timeout, RECONNECT)

    def _configure_cluster(self, published: Mapping[str, Any]) -> None:
        """Make the workers fit this client; the cluster has published its settings."""
        self.record = record_mode.of_this_process()
        installation.ensure_record_mode(self.client, self.record, published=published)
        installation.ensure_worker_plugin(
            self.client,
            published=published,
            processes=self.worker_plugin_workers,
            remote_clients=self.remote_clients,
            record=self.record,
            selection=selection.current(),
        )
        self.start(bounded_tables.evict_buffers())

    def detached(self) -> None:
        """Call `on_detach`, because this process no longer uses the client."""
        on_detach, self._on_detach = self._on_detach, None
        if on_detach is not None and not self._loop.of_parent:
            on_detach()
