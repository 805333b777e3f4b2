"""Installs the plugins that a driver script needs on a cluster."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from distributed import Client

import scheduler_ext
from scheduler_ext import messages

from ..cluster import scheduler
from ..cluster.record_mode import RECORD_MODE
from ..cluster.selection import changes, stop_command
from ..errors import RecordModeMismatch
from .plugin import SeamlessWorkerPlugin

logger = logging.getLogger(__name__)

#: key of the Dask metadata: how the workers of the cluster were configured
CONFIGURATION = "seamless-worker-configuration"
#: key of the Dask metadata: the selection of the first client, which records name
SELECTION = "seamless-selection"
PRELOAD = "dask scheduler --preload scheduler_ext.preload"


def ensure_plugin(client: Client) -> dict[str, Any]:
    """Make sure that the scheduler runs our plugin in our version.

    Returns
    -------
    dict
        What the cluster has published: the entries of Dask's metadata that are ours. All
        of them at once, since the scheduler may be far away.

    Raises
    ------
    RuntimeError
        If it does not and cannot be made to; the message says what to do.
    """
    answer = scheduler.call(client, messages.OP_VERSION)
    if answer is None:
        try:
            client.run_on_scheduler(scheduler_ext.install)
        except Exception as error:
            raise RuntimeError(
                "The Dask scheduler runs without the Seamless plugin and does not let "
                f"a client install it ({error!r}). Start it as: {PRELOAD}"
            ) from error
        answer = scheduler.call(client, messages.OP_VERSION)
        if answer is None:
            raise RuntimeError(
                "The Seamless plugin was installed in the Dask scheduler but does not "
                f"answer. Start the scheduler as: {PRELOAD}"
            )
    if answer.get("protocol") != scheduler_ext.PROTOCOL:
        raise RuntimeError(
            "The Dask scheduler's Seamless plugin has version "
            f"{answer.get('version')} (protocol {answer.get('protocol')}), this "
            f"client has {scheduler_ext.__version__} (protocol "
            f"{scheduler_ext.PROTOCOL}): restart the cluster with the same version"
        )
    return dict(answer["published"])


def ensure_record_mode(
    client: Client, record: bool, *, published: Mapping[str, Any]
) -> None:
    """Make sure that cluster and client agree on whether full records are written.

    Normally the wrapper has set the mode; otherwise the first client decides.
    `published` is what `ensure_plugin` has returned.

    Raises
    ------
    RecordModeMismatch
        If they differ.
    """
    present = published.get(RECORD_MODE)
    if present is None:
        client.set_metadata([RECORD_MODE], record)
    elif present != record:
        raise RecordModeMismatch(client=record, cluster=present)


def ensure_worker_plugin(
    client: Client,
    *,
    published: Mapping[str, Any],
    processes: int,
    remote_clients: Mapping[str, Any] | None,
    record: bool = False,
    selection: Mapping[str, Any] | None = None,
) -> None:
    """Make sure that every Dask worker, present or future, runs our worker plugin.

    A client without `remote_clients` never changes a cluster that another client has
    configured. A client with other services than the cluster's reconfigures the
    workers: a restarted hashserver has another port. A client that selects another
    cluster or queue, or finds another definition of it, does not: the workers stay where
    they are, and there is a warning. `published` is what `ensure_plugin` has returned.

    Raises
    ------
    RuntimeError
        In record mode, if the workers' cluster or queue is another than `selection`.
    """
    configuration = {
        "processes": processes,
        "remote_clients": None if remote_clients is None else dict(remote_clients),
    }
    text = json.dumps(configuration, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    present = published.get(CONFIGURATION)
    if present is not None and remote_clients is None:
        return
    if present is not None:
        # the workers stay where they are, whatever this client selects
        former = published.get(SELECTION)
        _check_selection(former, selection, record)
        selection = former
    if present == digest:
        return
    if present is not None:
        logger.info("The services of the cluster have changed: configuring workers")
    plugin = SeamlessWorkerPlugin(
        processes, remote_clients, record=record, selection=selection
    )
    client.register_plugin(plugin)
    client.set_metadata([CONFIGURATION], digest)
    client.set_metadata([SELECTION], None if selection is None else dict(selection))


def _selected(selection: Mapping[str, Any] | None) -> str | None:
    if selection is None:
        return None
    return f"cluster {selection['cluster']!r}, queue {selection['queue']!r}"


def _check_selection(
    former: Mapping[str, Any] | None, selection: Mapping[str, Any] | None, record: bool
) -> None:
    present, selected = _selected(former), _selected(selection)
    if selected != present:
        message = (
            f"The Dask cluster runs in {present or 'a queue that nobody named'}, this "
            f"client selects {selected or 'none'}, and its transformations will run in "
            f"the former. {_how_to_change(selection)}"
        )
        if record:
            raise RuntimeError(message)
        logger.warning(message)
    elif former is not None and selection is not None:
        changed = changes(former, selection)
        if changed:
            logger.warning(
                "The Dask cluster runs in %s as it was defined when it started. Since "
                "then its definition has changed: %s. %s",
                present,
                ", ".join(changed),
                _how_to_change(selection),
            )


def _how_to_change(selection: Mapping[str, Any] | None) -> str:
    what = (
        "To change that, stop the cluster when no other script needs it, and run this "
        "script again"
    )
    return what if selection is None else f"{what}: {stop_command()}"
