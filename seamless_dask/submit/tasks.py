"""The functions that Dask calls on a worker.

The scheduler unpickles submitted tasks and therefore imports this module: it stays
light, and everything that needs Seamless is reached through the worker's plugin.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from seamless import Buffer

    from ..types import TransformationResult

logger = logging.getLogger(__name__)

#: seconds for which a worker may be without the plugin, while it gets another one
REPLACING = 10.0
#: name under which the worker plugin is registered
WORKER_PLUGIN = "seamless-worker"


@dataclass(frozen=True)
class Job:
    """The data that a worker needs to run one transformation.

    Parameters
    ----------
    key
        Key of the Dask task.
    transformation_dict
        Pins are ``(celltype, subcelltype, checksum hex)``; None stands for the
        checksum of a pin in `dependencies`.
    tf_checksum
        None while an input is still to be computed.
    tf_dunder
        Data that travels with the transformation but is not part of its identity.
    dependencies
        Pins whose value is the result of another task, in the order in which these
        tasks are passed.
    scratch, allow_input_fingertip, strict_dunder
        See `seamless_dask.types.TransformationSubmission`.
    depth
        0 for top-level work, otherwise the depth in the tree of transformations.
    contents
        Small inputs that need not be fetched, checksum (hexadecimal) to bytes.
    client
        Id of the client that is sent a small result with the message that the task has
        ended. None: it asks for the result, as all other waiting clients do.
    script
        Id of the client of the driver script for which it runs, directly or as a call;
        None if that is not known.
    streams
        Whether its output is shown there while it runs.
    name
        Name of the function, which the scheduler knows then; None if the client does
        not have the code.
    """

    key: str
    transformation_dict: dict[str, Any]
    tf_checksum: str | None
    tf_dunder: dict[str, Any]
    dependencies: tuple[str, ...]
    scratch: bool
    allow_input_fingertip: bool
    strict_dunder: bool
    depth: int
    contents: dict[str, bytes] = field(default_factory=dict)
    client: str | None = None
    name: str | None = None
    script: str | None = None
    streams: bool = False


class Buffers(Protocol):
    """Gets buffers from memory or from a hashserver."""

    async def resolve(self, checksum: str) -> Buffer:
        """Return a buffer, or raise CacheMissError."""


class Recompute(Protocol):
    """Gets buffers, also those that must be computed again."""

    async def buffer(self, checksum: str, *, key: str, depth: int) -> Buffer:
        """Return a buffer, or raise CacheMissError."""


class Runner(Protocol):
    """Executes tasks on a worker: `seamless_dask.worker.task_runner.TaskRunner`."""

    @property
    def buffers(self) -> Buffers:
        """Buffers of the process."""

    @property
    def recompute(self) -> Recompute:
        """Recomputes buffers that are stored nowhere."""

    async def run(
        self, job: Job, dependencies: Sequence[TransformationResult]
    ) -> TransformationResult:
        """Execute one transformation and store its result."""


async def _runner() -> Runner:
    from distributed import get_worker

    worker = get_worker()
    plugin: Any = worker.plugins.get(WORKER_PLUGIN)
    deadline = monotonic() + REPLACING
    while plugin is None and monotonic() < deadline:
        # It may be about to be replaced, because services have other addresses now.
        await asyncio.sleep(REPLACING / 100)
        plugin = worker.plugins.get(WORKER_PLUGIN)
    if plugin is None:
        raise RuntimeError(
            f"Dask worker {worker.address} runs without the plugin {WORKER_PLUGIN!r}: "
            "no SeamlessDaskClient has configured this cluster"
        )
    return await plugin.runner()


async def run_transformation(
    job: Job, *dependencies: TransformationResult
) -> TransformationResult:
    """Run one transformation in the worker's pool of Seamless processes.

    Parameters
    ----------
    job
        The transformation.
    dependencies
        Results of the tasks that `job.dependencies` stand for.
    """
    runner = await _runner()
    return await runner.run(job, dependencies)


async def fetch_buffer(
    source: TransformationResult | str, fingertip: bool, key: str
) -> Buffer:
    """Return the buffer of a result, or of a checksum given as hexadecimal digits.

    Parameters
    ----------
    source
        A task's result, or a checksum.
    fingertip
        Recompute the buffer if it cannot be found.
    key
        Key of the Dask task.
    """
    runner = await _runner()
    if isinstance(source, str):
        checksum = source
    elif source.error is not None or source.result_checksum is None:
        raise RuntimeError(source.error or "The transformation has no result")
    else:
        checksum = source.result_checksum
    if fingertip:
        return await runner.recompute.buffer(checksum, key=key, depth=1)
    return await runner.buffers.resolve(checksum)


async def fetch_checksum(
    checksum: str, fingertip: bool, key: str
) -> tuple[str, Buffer | None, str | None]:
    """Return a checksum, and its buffer or the reason why there is none.

    Other Seamless packages pass the task's future to tasks of their own, which check
    for the error.

    Parameters
    ----------
    checksum
        64 hexadecimal digits.
    fingertip, key
        See `fetch_buffer`.

    Returns
    -------
    tuple
        ``(checksum, buffer, None)``, or ``(checksum, None, text of the error)``.
    """
    from seamless import CacheMissError

    try:
        return checksum, await fetch_buffer(checksum, fingertip, key), None
    except CacheMissError as error:
        return checksum, None, f"The buffer is nowhere to be found: {error}"
    except Exception as error:  # part of the answer, whatever it is
        logger.exception("Buffer %s cannot be fetched", checksum)
        return checksum, None, f"The buffer cannot be fetched: {error!r}"
