"""The tasks that a client has submitted, by name and by checksum.

Time is a parameter, and nothing here communicates. Callers that use a registry from
several threads must hold a lock.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scheduler_ext.task_keys import name_and_attempt, task_key_of

from ..types import TransformationResult
from .envelopes import Envelope

if TYPE_CHECKING:
    from distributed import Future


@dataclass(eq=False)
class Entry:
    """A submitted task, shared by all callers of this client that have submitted it."""

    #: its name in the registry: the key of its first attempt
    name: str
    key: str
    tf_checksum: str | None
    #: submits the task; called again if the connection to the scheduler was lost
    submit: Callable[[], Future]
    #: keeps the task alive on the scheduler; callers never get this handle
    anchor: Future
    envelope: Envelope
    #: the tasks whose results it needs
    dependencies: tuple[Entry, ...] = ()
    outcome: concurrent.futures.Future[TransformationResult] = field(
        default_factory=concurrent.futures.Future
    )
    #: the result, if it has come with the message that the task has ended
    pushed: TransformationResult | None = None
    #: whether the connection to the scheduler was lost meanwhile
    renewed: bool = False
    #: handles that have not been released
    holders: int = 0
    #: `time.monotonic` of the last use after completion
    last_used: float = 0.0

    def failed(self) -> bool:
        """Whether the task has ended without a result."""
        if not self.outcome.done():
            return False
        if self.outcome.cancelled() or self.outcome.exception() is not None:
            return True
        return self.outcome.result().error is not None


class Registry:
    """Keeps the submitted tasks, and the number of attempts of each.

    Parameters
    ----------
    drop
        Called with each entry that is forgotten, for instance to release its task.
    """

    def __init__(self, drop: Callable[[Entry], object]) -> None:
        self._drop = drop
        #: {name: entry}
        self._entries: dict[str, Entry] = {}
        #: {checksum of the transformation, 64 hexadecimal digits: entry}
        self._by_checksum: dict[str, Entry] = {}
        #: {name: (number of the next attempt, monotonic seconds of the last failure)}
        self._attempts: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        """Entries that are remembered."""
        return len(self._entries)

    def __repr__(self) -> str:
        return (
            f"<Registry: {len(self._entries)} tasks, {len(self._attempts)} attempted "
            "again>"
        )

    @property
    def idle(self) -> bool:
        """Whether there is nothing left that `prune` could forget."""
        return not (self._entries or self._attempts)

    # -- looking ---------------------------------------------------------------------

    def of_checksum(self, tf_checksum: str) -> Entry | None:
        """The entry whose task computes a transformation, or None."""
        return self._by_checksum.get(tf_checksum)

    def of_key(self, key: str) -> Entry | None:
        """The entry whose present attempt has this key, or None."""
        entry = self._entries.get(name_and_attempt(key)[0])
        return entry if entry is not None and entry.key == key else None

    def key(self, name: str) -> str:
        """The key that a task has, or would have if it was submitted now.

        Parameters
        ----------
        name
            Key of its first attempt.
        """
        entry = self._entries.get(name)
        if entry is not None and not entry.failed():
            return entry.key
        return task_key_of(name, self._next_attempt(name))

    def active_envelopes(self, tf_checksum: str) -> list[Envelope]:
        """The envelopes of a transformation's submissions that have not ended."""
        return [
            entry.envelope
            for entry in self._entries.values()
            if entry.tf_checksum == tf_checksum and not entry.outcome.done()
        ]

    def _next_attempt(self, name: str) -> int:
        """The number of the attempt after those that are remembered."""
        number, _ = self._attempts.get(name, (0, 0.0))
        entry = self._entries.get(name)
        return number if entry is None else max(number, _attempt_after(entry.key))

    # -- changing --------------------------------------------------------------------

    def reuse(self, name: str, now: float) -> Entry | None:
        """Return the entry of a task that need not be submitted again, or None.

        A failed task is forgotten, and the next attempt has another key: another caller
        may still hold the failed task.
        """
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.failed():
            self._attempts[name] = self._next_attempt(name), now
            self.forget(entry)
            return None
        entry.last_used = now
        return entry

    def add(self, entry: Entry) -> None:
        """Remember a task that was submitted just now."""
        self._entries[entry.name] = entry
        if entry.tf_checksum is not None:
            self._by_checksum[entry.tf_checksum] = entry

    def learn(self, entry: Entry, tf_checksum: str) -> None:
        """Note the checksum of a task's transformation, learned after submission."""
        if self._entries.get(entry.name) is entry:
            entry.tf_checksum = tf_checksum
            self._by_checksum[tf_checksum] = entry

    def hold(self, entry: Entry) -> None:
        """Count one more handle on a task."""
        entry.holders += 1

    def unhold(self, entry: Entry, *, cancel: bool) -> bool:
        """Count one handle less on a task.

        Returns
        -------
        bool
            Whether the task must be cancelled: `cancel` is set, the task has not ended,
            and there is no other handle. Then the entry is forgotten.
        """
        entry.holders -= 1
        abandoned = cancel and entry.holders <= 0 and not entry.outcome.done()
        if abandoned:
            self.forget(entry)
        return abandoned

    def forget(self, entry: Entry) -> None:
        """Drop an entry; the next submission of its transformation makes a new one."""
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
        checksum = entry.tf_checksum
        if checksum is not None and self._by_checksum.get(checksum) is entry:
            del self._by_checksum[checksum]
        self._drop(entry)

    def cancelled(self, key: str, now: float) -> None:
        """Note that the scheduler has cancelled a task for all clients.

        Dask tells all clients the key. A task that is submitted before this message
        arrives must not be affected, so the next attempt gets another key.
        """
        name, _ = name_and_attempt(key)
        number = max(self._next_attempt(name), _attempt_after(key))
        self._attempts[name] = number, now

    def prune(self, deadline: float) -> None:
        """Forget ended tasks that were last used before a time, in monotonic seconds."""
        for entry in list(self._entries.values()):
            if entry.outcome.done() and entry.last_used < deadline:
                self.forget(entry)
        for name in [n for n, used in self._attempts.items() if used[1] < deadline]:
            del self._attempts[name]


def _attempt_after(key: str) -> int:
    return name_and_attempt(key)[1] + 1
