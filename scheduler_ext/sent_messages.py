"""Makes Dask keep few of the messages that it has sent.

Each connection of Dask keeps the last 1,000 batches of messages, for Dask's developers,
with everything in them. For a driver that starts thousands at once these are the inputs of
a hundred thousand transformations (2 kB each), and for a scheduler the tasks that each
worker had (4 MB per worker). Dask's setting ``distributed.admin.low-level-log-length``
would shorten its other logs as well, also those in a user's own process.
"""

from __future__ import annotations

from collections import deque

from distributed.batched import BatchedSend

#: Batches that a connection keeps; a batch has up to 1 MB
KEPT = 10


def keep_few(connection: BatchedSend | None) -> None:
    """Make a connection keep the last `KEPT` batches only; cheap if it does so already.

    Parameters
    ----------
    connection
        Such as ``Client.scheduler_comm``, which is None while there is no connection, or
        an entry of ``Scheduler.stream_comms``.
    """
    if connection is None:
        return
    log = connection.recent_message_log
    if log.maxlen is None or log.maxlen > KEPT:
        connection.recent_message_log = deque(log, maxlen=KEPT)
