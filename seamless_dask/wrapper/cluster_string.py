"""The cluster string, ``MODULE::SYMBOL``, names the class that makes the cluster."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any, Literal

from ..command.spelling import question
from . import signals
from .exit_codes import ClusterStringError
from .jobs.queues import QUEUES

#: Modules that have cluster classes
MODULES = ("distributed", "dask.distributed", "dask_jobqueue")
EXAMPLES = "distributed::LocalCluster or dask_jobqueue::SLURMCluster"


@dataclass(frozen=True)
class ClusterClass:
    """A class that the wrapper knows how to start."""

    cls: type[Any]
    kind: Literal["local", "jobqueue"]
    #: Section of Dask's configuration for the batch system, such as ``slurm``.
    batch_system: str = ""


def resolve(text: str) -> ClusterClass:
    """Import the class that the cluster string names. Raises `ClusterStringError`.

    Call it from the main thread: importing ``dask_jobqueue`` installs a signal handler,
    which fails elsewhere. The handlers of this process stay all the same.
    """
    module_name, separator, symbol = text.partition("::")
    if not separator or not module_name or not symbol:
        raise ClusterStringError(
            f"The cluster string {text!r} is not of the form MODULE::SYMBOL, "
            f"for example {EXAMPLES}."
        )
    try:
        with signals.kept():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ClusterStringError(
            f"The cluster string {text!r} needs the module {error.name!r}, "
            f"which is not installed{question(module_name, MODULES)}."
        ) from error
    except (Exception, SystemExit) as error:  # the module may raise any exception
        raise ClusterStringError(
            f"The module of the cluster string {text!r} cannot be imported: {error!r}."
        ) from error
    try:
        found = getattr(module, symbol)
    except AttributeError:
        raise ClusterStringError(
            f"The cluster string {text!r}: module {module_name!r} has no "
            f"{symbol!r}{question(symbol, vars(module))}. For example {EXAMPLES}."
        ) from None
    return _classify(text, found)


def _classify(text: str, found: Any) -> ClusterClass:
    from distributed import LocalCluster
    from distributed.deploy import Cluster

    if isinstance(found, Cluster):
        raise ClusterStringError(
            f"The cluster string {text!r} names a {type(found).__name__} that exists "
            "already. Name the class: the wrapper makes the cluster itself."
        )
    if not (isinstance(found, type) and issubclass(found, Cluster)):
        raise ClusterStringError(
            f"The cluster string {text!r} names {found!r}, which is no cluster class. "
            f"For example {EXAMPLES}."
        )
    if issubclass(found, LocalCluster):
        return ClusterClass(found, "local")
    # a module with a subclass of JobQueueCluster has imported the package
    jobqueue = sys.modules.get("dask_jobqueue")
    if jobqueue is not None and issubclass(found, jobqueue.JobQueueCluster):
        job_class = getattr(found, "job_cls", None)
        if job_class is None:
            raise ClusterStringError(
                f"The cluster string {text!r} names the base class of all batch "
                "systems; name the one of yours, such as dask_jobqueue::SLURMCluster."
            )
        system = job_class.config_name
        if system not in QUEUES:
            raise ClusterStringError(
                f"The cluster string {text!r} is for the batch system {system!r}, but the "
                f"queues known are those of {', '.join(sorted(QUEUES))}."
            )
        return ClusterClass(found, "jobqueue", system)
    raise ClusterStringError(
        f"The cluster string {text!r} names {found.__name__}, but only LocalCluster and"
        " the clusters of dask_jobqueue are supported."
    )
