"""Tells workers which cluster and queue the driver script has selected.

Execution records name cluster, queue and remote target, and in record mode their
probes are checked. seamless-config knows them only in the driver script, so they are
sent with the worker plugin to each Dask worker, and from there in an environment
variable to its Seamless processes, where the probes' code reads them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

REMOTE_TARGET = "daskserver"
#: characters of a value in a message
LONGEST = 60

#: cluster that `select` has selected in this process
_selected: str | None = None


def definition_of(cluster: Any) -> dict[str, Any]:
    """Return the definition of a cluster in ``clusters.yaml``, as plain data.

    Parameters
    ----------
    cluster
        A ``seamless_config.cluster.Cluster``; its ``from_dict`` is the inverse.
    """
    definition = asdict(cluster)
    del definition["name"]
    definition["frontends"] = [_given(item) for item in definition["frontends"]]
    if definition["queues"] is not None:
        definition["queues"] = {
            name: {k: v for k, v in _given(queue).items() if k != "name"}
            for name, queue in definition["queues"].items()
        }
    return _given(definition)


def _given(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not None}


def current() -> dict[str, Any] | None:
    """Return the selection of this process, or None if it has selected no cluster.

    A JSON-compatible mapping: ``cluster`` (a name), ``definition``, ``queue``, ``node``.
    """
    from seamless_config.cluster import get_cluster
    from seamless_config.select import get_node, get_queue, get_selected_cluster

    name = get_selected_cluster()
    if name is None:
        return None
    cluster = get_cluster(name)
    return {
        "cluster": name,
        "definition": definition_of(cluster),
        "queue": get_queue(name) or cluster.default_queue,
        "node": get_node(),
    }


def changes(former: Mapping[str, Any], selection: Mapping[str, Any]) -> list[str]:
    """What the definition of a queue says otherwise than before.

    Only what seamless-config makes parameters of a cluster of counts.

    Parameters
    ----------
    former, selection
        Selections of the same cluster and queue, see `current`.

    Returns
    -------
    list of str
        Such as ``walltime was '1h' and is '2h'``, by name; values may be cut.
    """
    before, after = _parameters(former), _parameters(selection)
    return [
        f"{name} was {_short(before.get(name))} and is {_short(after.get(name))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _parameters(selection: Mapping[str, Any]) -> dict[str, Any]:
    """The definition of the queue that is selected, and what its cluster says for all."""
    # as JSON: messages of Dask may have made tuples of lists
    definition = json.loads(json.dumps(selection["definition"]))
    found = dict((definition.get("queues") or {}).get(selection["queue"]) or {})
    names = ["type", "memory_per_core_property_name"]
    if found.get("cores") is None:
        names.append("workers")  # has no meaning otherwise
    return found | {name: definition[name] for name in names if name in definition}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def stop_command() -> str:
    """The command that stops the daskserver that this process uses.

    Without a project it stops all services of the selected cluster.
    """
    from seamless_config.select import get_current, get_selected_project

    project = get_selected_project()
    names = ("cluster", "project", "subproject", "stage", "substage")
    values = get_current(project=project or "")
    words = ["seamless-service-stop"]
    if project:
        words += ["--service", REMOTE_TARGET]
    for name, value in zip(names, values, strict=True):
        if value and (project or name == "cluster"):
            words += [f"--{name}", value]
    return shlex.join(words)


def select(selection: Mapping[str, Any]) -> bool:
    """Apply the selection of a driver script to this process.

    Returns
    -------
    bool
        False, and nothing has changed, if this process has a selection of its own: the
        worker then runs in the process of the driver script.
    """
    global _selected
    from seamless_config.cluster import define_clusters
    from seamless_config.select import (
        get_selected_cluster,
        select_cluster,
        select_node,
        select_queue,
        select_remote,
    )

    if get_selected_cluster() != _selected:
        return False
    name = selection["cluster"]
    define_clusters({name: selection["definition"]})
    select_cluster(name)
    if selection["queue"] is not None:
        select_queue(selection["queue"])
    select_remote(REMOTE_TARGET)
    select_node(selection["node"])
    _selected = name
    return True
