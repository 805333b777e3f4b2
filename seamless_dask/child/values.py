"""Special treatment of scratch, trivial and large values in a Seamless process.

By itself, a Seamless process drops the value of a scratch transformation, so that every
use computes it again; a second computation uploads it. Here the Dask worker gets the
value and keeps it in its memory. The empty buffer is stored nowhere, and cannot be
fetched: its checksum identifies it. Large values go through shared memory, see
`seamless_dask.storage.shared_memory`. Runs inside each Seamless process.
"""

from __future__ import annotations

import os
from typing import Any

from seamless import Buffer, Checksum
from seamless.checksum.calculate_checksum import TRIVIAL_CHECKSUMS
from seamless_transformer import SeamlessStreamTransformationError

from ..neighbours.replacing import current, replace
from ..storage import shared_memory
from . import forked_jobs
from .errors import error_text

#: request by which a process hands over a buffer that is not to be stored
KEEP_SCRATCH = "seamless_dask_keep_scratch"


def install(worker: Any) -> None:
    """Change how this process treats scratch results, trivial and large buffers.

    Call it before the process gets its primitives from seamless-transformer.

    Parameters
    ----------
    worker
        The module ``seamless_transformer.worker``.
    """
    shared_memory.install(worker)
    tempref = current(worker, "_buffer_tempref")
    resolve = current(worker, "_checksum_resolve")
    run = current(worker, "run_transformation_dict")
    pid = os.getpid()

    def buffer_tempref(self: Buffer, **options: Any) -> None:
        if not options.get("scratch"):
            tempref(self, **options)
        elif len(self.content):
            worker._request_parent_sync(
                KEEP_SCRATCH,
                {"checksum": self.get_checksum().hex(), "content": self.content},
            )

    def checksum_resolve(self: Checksum, celltype: str | None = None) -> Any:
        content = TRIVIAL_CHECKSUMS.get(self.hex())
        if content is None:
            return resolve(self, celltype)
        buffer = Buffer(content, checksum=self)
        return buffer if celltype is None else buffer.get_value(celltype)

    def run_transformation_dict(
        transformation_dict: dict[str, Any],
        tf_checksum: Checksum,
        tf_dunder: dict[str, Any],
        scratch: bool,
    ) -> Any:
        try:
            return run(
                transformation_dict,
                tf_checksum,
                tf_dunder,
                scratch,
                require_value=scratch,
            )
        except SeamlessStreamTransformationError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever user code raises
            if os.getpid() != pid:
                forked_jobs.end(error, None)
            # Its text becomes the error of the transformation, with its output.
            raise SeamlessStreamTransformationError(error_text(error)) from None

    replace(worker, "_buffer_tempref", buffer_tempref)
    replace(worker, "_checksum_resolve", checksum_resolve)
    replace(worker, "run_transformation_dict", run_transformation_dict)
