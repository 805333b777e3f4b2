"""Which transformations are streamed to a driver script, and their way to its terminal.

See `scheduler_ext.outputs`. A driver script subscribes to its events when it submits the
first transformation that asks for it; without one, it sends and receives nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from scheduler_ext import outputs
from scheduler_ext.fields import InvalidMessage

from ..cluster.environment import STREAMING_ENV, switch
from ..output.terminal import Terminal

if TYPE_CHECKING:
    from distributed import Client

    from ..types import TransformationSubmission

logger = logging.getLogger(__name__)

#: fields of ``meta`` by which a transformer asks for it
ASKS = ("streaming", "__direct_print__")


class Streamed:
    """Decides what one client streams, and shows it.

    Parameters
    ----------
    client
        The client of distributed.
    shows
        Whether this process shows output: it is no Dask worker.

    Raises
    ------
    ValueError
        If the environment variable `STREAMING_ENV` has a value that is not allowed.
    """

    def __init__(self, client: Client, *, shows: bool) -> None:
        self._client = client
        self._shows = shows
        self._all = shows and bool(switch(STREAMING_ENV))
        self._terminal: Terminal | None = None

    def wants(self, submission: TransformationSubmission) -> bool:
        """Return whether a submission is streamed; subscribe before the first one."""
        wanted = submission.streams or self._all or asks(submission)
        if not self._shows:
            return wanted and submission.script is not None
        if wanted and self._terminal is None:
            self._terminal = Terminal.of_this_process()
            topic = outputs.topic_of(self._client.id)
            self._client.subscribe_topic(topic, self._arrived)
        return wanted

    def _arrived(self, event: tuple[float, Any]) -> None:
        assert self._terminal is not None
        try:
            self._terminal.show(outputs.parse_event(event[1]))
        except InvalidMessage as problem:
            logger.warning("Output of a transformation cannot be read: %s", problem)

    @property
    def shown(self) -> bool:
        """Whether any transformation was streamed here."""
        return self._terminal is not None

    def catch_up(self) -> None:
        """Wait until what has arrived is printed; from any thread but the client's."""
        if self._terminal is not None:
            self._terminal.flush()


def asks(submission: TransformationSubmission) -> bool:
    """Return whether the transformer of a transformation asks for it."""
    dunder: Any = submission.tf_dunder or {}
    for meta in (
        submission.transformation_dict.get("__meta__"),
        dunder.get("__meta__"),
    ):
        if isinstance(meta, dict) and any(meta.get(name) is True for name in ASKS):
            return True
    return False
