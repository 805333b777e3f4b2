"""Observes executions and stores their results and execution records.

A minimal record holds times and peak memory. In record mode the record also says
under which conditions the transformation ran: the probes of its node, environment and
queue (which must be there and fresh, before and after), how it was compiled, which
contracts it violated.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import socket
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import psutil
from seamless import Checksum
from seamless_transformer.probe_index import (
    ensure_record_bucket_preconditions,
    is_record_probe,
)
from seamless_transformer.record_assembly import (
    _normalize_job_validation_payload,
    build_compilation_context_checksum,
    build_execution_record,
    build_validation_snapshot_checksum,
    collect_compilation_runtime_metadata,
    collect_job_validation,
    load_bucket_contract_violations,
    start_gpu_memory_sampler,
    stop_gpu_memory_sampler,
)
from seamless_transformer.record_utils import _utcnow_iso
from seamless_transformer.transformation_utils import resolve_env_checksum

from ..cluster import record_mode
from ..errors import StorageError
from ..neighbours.pins import input_checksums
from .cache import BufferStore
from .database import (
    EXECUTION,
    ResultWriter,
    minimal_record,
    store_record,
    store_result,
    times_of,
)
from .job_report import JobReport
from .outages import DATABASE

T = TypeVar("T")


class Recorder:
    """Makes the records of one Dask worker.

    Parameters
    ----------
    buffers
        Holds inputs and results, to determine their sizes.
    """

    def __init__(self, buffers: BufferStore) -> None:
        self.buffers = buffers
        #: one per worker, because it learns how its database behaves
        self.results = ResultWriter()
        self._index = itertools.count(1)
        self._has_gpu_library = importlib.util.find_spec("pynvml") is not None
        self._loop: asyncio.AbstractEventLoop | None = None

    def execution(
        self, transformation_dict: dict[str, Any], tf_dunder: dict[str, Any]
    ) -> Execution:
        """Return an asynchronous context manager that observes one execution.

        Examples
        --------
        ``async with recorder.execution(...) as execution:`` around the code that
        executes it; then ``await execution.store(...)``.
        """
        if is_record_probe(transformation_dict, tf_dunder):
            return Execution()
        if record_mode.of_this_process():
            return _InFull(self, transformation_dict, tf_dunder)
        return _WithTimes(self.results)

    async def on_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run work for a full record, which may block (compilers, ``readelf``).

        All of it runs on one thread, since seamless-remote keeps connections by thread.
        """
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            threading.Thread(
                target=loop.run_forever, name="seamless-records", daemon=True
            ).start()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return await asyncio.wrap_future(future)

    def next_index(self) -> int:
        """Count the executions of this worker that leave a full record."""
        return next(self._index)

    def start_gpu_samplers(self) -> list[Any]:
        """Observe the GPU memory of the processes in which transformations run."""
        if not self._has_gpu_library:
            return []
        children = psutil.Process().children(recursive=True)
        samplers = [start_gpu_memory_sampler(child.pid) for child in children]
        return [sampler for sampler in samplers if sampler is not None]

    def close(self) -> None:
        """End the thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None


class Execution:
    """One execution of a transformation; this one leaves its result and no record."""

    async def __aenter__(self) -> Execution:
        """Begin.

        Raises
        ------
        seamless_transformer.probe_index.RecordBucketError
            In record mode, if a probe is missing or stale.
        StorageError
            In record mode, if there is no database to write to.
        """
        return self

    async def __aexit__(self, *_: object) -> None:
        """Note that the execution has ended, successfully or not."""

    async def store(
        self,
        tf_checksum: str,
        result_checksum: str,
        report: JobReport,
        *,
        scratch: bool,
    ) -> None:
        """Write result and record; return once both are stored.

        Parameters
        ----------
        tf_checksum, result_checksum
            64 hexadecimal digits.
        report
            The measurements of the Seamless process.
        scratch
            Whether only the checksum of the result is kept.

        Raises
        ------
        StorageError
            If the result, or in record mode the record, could not be written.
        seamless_transformer.probe_index.RecordBucketError
            In record mode, if a probe is missing or has become stale.
        """
        await store_result(tf_checksum, result_checksum)


class _WithTimes(Execution):
    """Leaves a minimal record, in one request with the result.

    Parameters
    ----------
    results
        The result writer of the worker.
    """

    def __init__(self, results: ResultWriter) -> None:
        self._results = results

    async def store(
        self,
        tf_checksum: str,
        result_checksum: str,
        report: JobReport,
        *,
        scratch: bool,
    ) -> None:
        record = minimal_record(tf_checksum, result_checksum, report)
        await self._results.store(tf_checksum, result_checksum, record)


class _InFull(Execution):
    """Leaves a full record, for record mode.

    The record is written first: the database then adds the result by itself, and never
    has a result without its record.

    Parameters
    ----------
    recorder
        The recorder of the worker.
    transformation_dict, tf_dunder
        The transformation.
    """

    def __init__(
        self,
        recorder: Recorder,
        transformation_dict: dict[str, Any],
        tf_dunder: dict[str, Any],
    ) -> None:
        self._recorder = recorder
        self._transformation_dict = transformation_dict
        self._tf_dunder = tf_dunder
        self._samplers: list[Any] = []
        #: the most GPU memory that the processes had, in bytes; None: not known
        self._gpu_memory: int | None = None
        #: in UTC, ISO 8601
        self._started_at = self._finished_at = ""

    async def __aenter__(self) -> Execution:
        _check_database()
        await self._recorder.on_thread(self.check_probes())
        self._samplers = self._recorder.start_gpu_samplers()
        self._started_at = self._finished_at = _utcnow_iso()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._finished_at = _utcnow_iso()
        if self._samplers:
            # Each takes up to 0.2 s to end.
            peaks = await asyncio.gather(
                *(asyncio.to_thread(stop_gpu_memory_sampler, s) for s in self._samplers)
            )
            known = [peak for peak in peaks if peak is not None]
            self._gpu_memory = sum(known) if known else None

    async def store(
        self,
        tf_checksum: str,
        result_checksum: str,
        report: JobReport,
        *,
        scratch: bool,
    ) -> None:
        sizes = await self._sizes(result_checksum)
        record = await self._recorder.on_thread(
            self._full_record(tf_checksum, result_checksum, report)
        )
        record["execution_envelope"]["scratch"] = scratch
        record["input_total_bytes"], record["output_total_bytes"] = sizes
        await store_record(tf_checksum, result_checksum, record, required=True)
        await store_result(tf_checksum, result_checksum)

    async def check_probes(self) -> dict[str, Any] | None:
        """Return the probes of this node, environment and queue; on the thread."""
        environment = resolve_env_checksum(self._transformation_dict, self._tf_dunder)
        if environment is not None:
            buffer = self._recorder.buffers.at_hand(Checksum(environment).hex())
            if buffer is not None:
                # The check blocks if it does not find the buffer in Seamless' cache.
                buffer.tempref(scratch=True)
        return await DATABASE.call(
            lambda: ensure_record_bucket_preconditions(
                self._transformation_dict, self._tf_dunder, execution=EXECUTION
            )
        )

    async def _full_record(
        self, tf_checksum: str, result_checksum: str, report: JobReport
    ) -> dict[str, Any]:
        transformation = self._transformation_dict, self._tf_dunder
        probes = await self.check_probes()
        bucket_violations = await load_bucket_contract_violations(probes)
        context = await build_compilation_context_checksum(*transformation)
        validation = _normalize_job_validation_payload(
            await collect_job_validation(
                *transformation, compilation_context=context, probe_context=probes
            )
        )
        runtime = {
            "memory_peak_bytes": report.memory_peak,
            "gpu_memory_peak_bytes": self._gpu_memory,
            "hostname": socket.gethostname(),
            "pid": report.pid,
            "process_create_time_epoch": report.process_started,
            "worker_execution_index": self._recorder.next_index(),
            "retry_count": report.begun - 1,
            **await collect_compilation_runtime_metadata(*transformation),
        }
        job_violations = validation["job_contract_violations"]
        snapshot = await build_validation_snapshot_checksum(
            *transformation,
            execution=EXECUTION,
            probe_context=probes,
            compilation_context=context,
            bucket_contract_violations=bucket_violations,
            job_contract_violations=job_violations,
            job_validation_diagnostics=validation["diagnostics"],
            runtime_metadata=runtime,
        )
        return build_execution_record(
            self._transformation_dict,
            tf_checksum=Checksum(tf_checksum),
            result_checksum=Checksum(result_checksum),
            tf_dunder=self._tf_dunder,
            execution=EXECUTION,
            started_at=self._started_at,
            finished_at=self._finished_at,
            probe_context=probes,
            bucket_contract_violations=bucket_violations,
            job_contract_violations=job_violations,
            compilation_context=context,
            validation_snapshot=snapshot,
            runtime_metadata=runtime,
            **times_of(report),
        )

    async def _sizes(self, result_checksum: str) -> tuple[int | None, int | None]:
        """Return the bytes of all distinct inputs, and of the result.

        seamless-transformer would ask the hashserver, which over HTTP only says
        whether it has a buffer.
        """
        inputs = await _gather_sizes(
            self._recorder.buffers.size_of(c)
            for c in input_checksums(self._transformation_dict)
        )
        total = sum(size for size in inputs if size is not None)
        output = await self._recorder.buffers.size_of(result_checksum)
        return None if None in inputs else total, output


async def _gather_sizes(sizes: Any) -> list[int | None]:
    return list(await asyncio.gather(*sizes))


def _check_database() -> None:
    from seamless_remote import database_remote

    if not database_remote.has_write_server():
        raise StorageError("Record mode requires an active database write server")
