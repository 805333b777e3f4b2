"""Lets small buffers travel with the messages that need them.

By itself a Seamless process asks its parent for each input and offers it each buffer
that it makes: two exchanges over a pipe and a block of shared memory for every one,
which for small values costs more than the transformation. Here

- the inputs of a job come with the job,
- the inputs of a nested transformation go with the request for it, its result comes
  with the answer,
- the buffers that a job has made go with its result.

Larger buffers, and buffers that were dropped here to bound the memory, are exchanged as
seamless-transformer does it. Runs inside each Seamless process, except for the constants
and types, which the Dask worker uses as well.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from seamless import Buffer, Checksum

from ..neighbours.replacing import current, replace

#: bytes up to which a buffer is small
SMALL = 16 * 1024
#: key of the buffers in the dunder of a job, in a request, and in an answer
BUFFERS = "__seamless_dask_buffers__"
#: bytes of buffers that a process keeps
CAPACITY = 32 * 1024**2
#: bytes that an entry takes besides its content
OVERHEAD = 500
#: number of checksums that a process remembers as known to its parent
REMEMBERED = 20_000

Contents = dict[str, bytes]


class ResultChecksum(Checksum):
    """The checksum of a job's result, with the small buffers that the job has made."""

    __slots__ = ["buffers"]

    def __init__(self, checksum: Checksum | str | bytes, buffers: Contents) -> None:
        super().__init__(checksum)
        self.buffers = buffers

    def __reduce__(self) -> tuple[Any, ...]:
        return ResultChecksum, (self.bytes(), self.buffers)


class SmallBuffers:
    """The small buffers of a Seamless process; for any thread.

    Also replaces the mapping in which seamless-transformer looks before it asks the
    parent. That mapping would keep all buffers that the process makes, up to 1 MiB each,
    for ever.

    Parameters
    ----------
    capacity
        Bytes to keep, `OVERHEAD` per entry included; the least recently used go first.
        Buffers that the parent does not have yet are kept in addition.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        #: buffers that were made here and not sent yet
        self._unsent: Contents = {}
        #: checksums of buffers that the parent has, or has had
        self._sent: OrderedDict[str, None] = OrderedDict()
        #: checksums of buffers that came from the parent, and were not made here since
        self._received: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._contents)

    def __setitem__(self, checksum: str, content: bytes) -> None:
        """Keep a buffer that the parent has.

        It is not sent back: the parent stores the buffers that it is sent, but this may
        be the result of a scratch transformation, which must not be stored.
        """
        with self._lock:
            self._keep(checksum, content)
            self._received[checksum] = None
            while len(self._received) > REMEMBERED:
                self._received.popitem(last=False)

    def get(self, checksum: str, default: bytes | None = None) -> bytes | None:
        """Return the content of a buffer if it is here."""
        with self._lock:
            content = self._contents.get(checksum)
            if content is not None:
                self._contents.move_to_end(checksum)
                return content
            return self._unsent.get(checksum, default)

    def made(self, checksum: str, content: bytes) -> None:
        """Keep a buffer that was made here; it goes to the parent with a message."""
        with self._lock:
            self._keep(checksum, content)
            self._received.pop(checksum, None)
            if checksum not in self._sent:
                self._unsent[checksum] = content

    def for_request(self, checksums: Iterable[str]) -> Contents:
        """Return the buffers among `checksums` that the parent may lack.

        Requests overtake each other, so each carries all its buffers until `confirm`
        notes that the parent has them.
        """
        found = {}
        with self._lock:
            for checksum in checksums:
                if checksum not in self._sent and checksum not in self._received:
                    content = self._unsent.get(checksum)
                    if content is None:
                        content = self._contents.get(checksum)
                    # The parent has larger buffers: they are sent when they are made.
                    if content is not None and len(content) <= SMALL:
                        found[checksum] = content
        return found

    def confirm(self, checksums: Iterable[str]) -> None:
        """Note that the parent has received these buffers."""
        with self._lock:
            for checksum in checksums:
                self._unsent.pop(checksum, None)
                self._sent[checksum] = None
            while len(self._sent) > REMEMBERED:
                self._sent.popitem(last=False)

    def for_result(self) -> Contents:
        """Return all buffers that were not sent yet, and count them as sent."""
        with self._lock:
            unsent, self._unsent = self._unsent, {}
        return unsent

    def _keep(self, checksum: str, content: bytes) -> None:
        if checksum in self._contents:
            self._contents.move_to_end(checksum)
            return
        self._contents[checksum] = content
        self._size += len(content) + OVERHEAD
        while self._size > self._capacity:
            _, evicted = self._contents.popitem(last=False)
            self._size -= len(evicted) + OVERHEAD


def checksums_of_request(payload: Mapping[str, Any]) -> set[str]:
    """Return the checksums that a request for a nested transformation refers to."""
    checksums = {Checksum(payload["tf_checksum"]).hex()}
    for name, value in (payload.get("transformation_dict") or {}).items():
        if isinstance(value, tuple) and len(value) > 2 and value[2]:
            checksums.add(Checksum(value[2]).hex())
        elif name.startswith("__") and isinstance(value, str) and len(value) == 64:
            checksums.add(value)
    return checksums


def install(worker: Any) -> SmallBuffers:
    """Change how this process exchanges small buffers with its parent.

    Parameters
    ----------
    worker
        The module ``seamless_transformer.worker``.
    """
    small = SmallBuffers()
    replace(worker, "_LOCAL_BUFFERS", small)

    offer = current(worker, "_buffer_ref_op")
    ask = current(worker, "_request_parent_async")
    execute = current(worker, "_execute_transformation_request")

    def buffer_ref_op(buffer: Buffer, op: str) -> None:
        content = buffer.content
        if op == "decref" or not 0 < len(content) <= SMALL:
            offer(buffer, op)
        else:
            small.made(buffer.get_checksum().hex(), content)

    async def request_parent(op: str, payload: Any) -> Any:
        if op != "delegate_transformation_submit":
            return await ask(op, payload)
        buffers = small.for_request(checksums_of_request(payload))
        answer = await ask(op, {**payload, BUFFERS: buffers})
        small.confirm(buffers)
        if isinstance(answer, dict):
            for checksum, content in answer.pop(BUFFERS, {}).items():
                small[checksum] = content
        return answer

    def execute_request(payload: dict[str, Any]) -> Any:
        tf_dunder = dict(payload.get("tf_dunder") or {})
        for checksum, content in tf_dunder.pop(BUFFERS, {}).items():
            small[checksum] = content
        result = execute({**payload, "tf_dunder": tf_dunder})
        if isinstance(result, Checksum):
            return ResultChecksum(result, small.for_result())
        return result

    replace(worker, "_buffer_ref_op", buffer_ref_op)
    replace(worker, "_request_parent_async", request_parent)
    replace(worker, "_execute_transformation_request", execute_request)
    return small
