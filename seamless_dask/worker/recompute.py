"""Recomputes buffers that are stored nowhere: results of scratch transformations.

The database knows which transformations give a checksum; one of them runs again, in
the pool like any other, so that its calls are nested work as well. Nothing is stored:
the buffer stays in this worker's memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from seamless import Buffer, CacheMissError, Checksum

from ..child.small_buffers import Contents
from ..errors import JobFailed
from ..neighbours.pins import buffers_to_run, with_tuples
from ..storage.cache import BufferStore
from ..storage.job_report import JobReport
from ..storage.outages import DATABASE
from ..storage.uploads import Uploads
from .callers import RunningJobs

logger = logging.getLogger(__name__)

#: number of transformations whose dunder is remembered
REMEMBERED = 5_000


class Recompute:
    """Gets buffers for a Dask worker, and recomputes them if necessary.

    Lives on the worker's event loop.

    Parameters
    ----------
    buffers, uploads
        The buffers of this process, and those on their way to the hashserver.
    running
        The transformations that the worker executes.
    dispatch
        Runs a transformation: `seamless_dask.pool.pool.Pool.dispatch`.
    """

    def __init__(
        self,
        buffers: BufferStore,
        uploads: Uploads,
        running: RunningJobs,
        dispatch: Callable[..., Awaitable[tuple[str, Contents, JobReport]]],
    ) -> None:
        self._buffers = buffers
        self._uploads = uploads
        self._running = running
        self._dispatch = dispatch
        #: {checksum: its computation}
        self._computing: dict[str, asyncio.Task[Buffer]] = {}
        #: {checksum of a scratch transformation: its dunder}, the latest last
        self._dunders: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def remember(self, tf_checksum: str, tf_dunder: Mapping[str, Any]) -> None:
        """Keep the dunder of a scratch transformation, in case it runs again.

        The dunder is stored nowhere else: another worker runs the transformation again
        without it.
        """
        self._dunders[tf_checksum] = dict(tf_dunder)
        self._dunders.move_to_end(tf_checksum)
        while len(self._dunders) > REMEMBERED:
            self._dunders.popitem(last=False)

    async def buffer(
        self, checksum: str, *, key: str, depth: int, parents: tuple[str, ...] = ()
    ) -> Buffer:
        """Return a buffer: from memory, from a hashserver, or recomputed.

        Concurrent calls of different tasks for one checksum share the work.

        Parameters
        ----------
        checksum
            64 hexadecimal digits.
        key
            Key of the Dask task that needs the buffer; nested work is attributed to it.
        depth
            Depth of that task in the tree of transformations.
        parents
            Checksums of the buffers that are being recomputed and need this one.

        Raises
        ------
        seamless.CacheMissError
            If it cannot be obtained; the text lists the attempts.
        """
        try:
            return await self._buffers.resolve(checksum)
        except CacheMissError:
            if checksum in parents:
                raise
        if parents:
            # Not shared: two computations that need each other would deadlock.
            return await self._recompute(checksum, key, depth, (*parents, checksum))
        task = self._computing.get(checksum)
        if task is None:
            task = asyncio.create_task(
                self._recompute(checksum, key, depth, (checksum,))
            )
            self._computing[checksum] = task
            task.add_done_callback(lambda _: self._computing.pop(checksum, None))
        return await asyncio.shield(task)

    async def _recompute(
        self, checksum: str, key: str, depth: int, parents: tuple[str, ...]
    ) -> Buffer:
        from seamless_remote import database_remote

        candidates = await DATABASE.call(
            lambda: database_remote.get_rev_transformations(Checksum(checksum))
        )
        problems = []
        for candidate in candidates or ():
            tf_checksum = Checksum(candidate).hex()
            logger.info("Computing buffer %s again, by %s", checksum, tf_checksum)
            try:
                result = await self._run(tf_checksum, key, depth, parents)
            except (CacheMissError, JobFailed) as error:
                problems.append(f"transformation {tf_checksum}: {error}")
                continue
            buffer = self._buffers.at_hand(checksum)
            if result == checksum and buffer is not None:
                return buffer
            problems.append(f"transformation {tf_checksum} gave {result}")
        tried = "; ".join(problems) or "no transformation is known to give it"
        raise CacheMissError(f"{checksum} ({tried})")

    async def _run(
        self, tf_checksum: str, key: str, depth: int, parents: tuple[str, ...]
    ) -> str:
        stored = await self._buffers.resolve(tf_checksum)
        transformation_dict = with_tuples(await stored.get_value_async("plain"))
        tf_dunder = self._dunders.get(tf_checksum, {})
        inputs = await asyncio.gather(
            *(
                self.buffer(c, key=key, depth=depth, parents=parents)
                for c in buffers_to_run(transformation_dict, tf_dunder)
            )
        )
        with self._running.occupied(key, tf_checksum, depth):
            result, made, _report = await self._dispatch(
                transformation_dict,
                tf_checksum=tf_checksum,
                tf_dunder=tf_dunder,
                scratch=True,
                strict_dunder=False,
                key=key,
                depth=depth,
                inputs=inputs,
            )
        self._uploads.received(made)
        return result
