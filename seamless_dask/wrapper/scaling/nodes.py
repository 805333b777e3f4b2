"""Nodes on which jobs fail, and which therefore get no jobs for a while. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Failures in a row after which a node is excluded.
FAILURES = 2
#: How long a node is excluded, in seconds.
EXCLUSION_SECONDS = 600.0
#: Most nodes that are remembered.
MOST = 1000


@dataclass(frozen=True)
class Exclusion:
    """Why a node gets no jobs, and until when (monotonic seconds)."""

    until: float
    reason: str


class Nodes:
    """Failures by node. ``note`` is called when a node is excluded or allowed again."""

    def __init__(self, note: Callable[[str], None]):
        self.excluded: dict[str, Exclusion] = {}
        self._failures: dict[str, int] = {}
        #: No node is excluded before this time.
        self._given_up_until = float("-inf")
        self._note = note

    def failed(self, node: str, why: str, now: float) -> None:
        """A job failed on a node; an empty name means that the node is not known."""
        if not node:
            return
        failures = self._failures.pop(node, 0) + 1
        self._failures[node] = failures
        if len(self._failures) > MOST:
            del self._failures[next(iter(self._failures))]
        if now < self._given_up_until:
            return
        if failures >= FAILURES and node not in self.excluded:
            self.excluded[node] = Exclusion(now + EXCLUSION_SECONDS, why)
            self._note(
                f"node {node} gets no new jobs for {EXCLUSION_SECONDS / 60:.0f} min, "
                f"after {failures} failures in a row; the last one: {why}"
            )

    def worked(self, node: str) -> None:
        """A job ran on a node for as long as it should."""
        self._failures.pop(node, None)

    def give_up(self, why: str, now: float) -> None:
        """No job can start without the excluded nodes: allow them again."""
        if not self.excluded:
            return
        names = ", ".join(self.excluded)
        for node in self.excluded:
            self._failures[node] = FAILURES - 1
        self.excluded.clear()
        self._given_up_until = now + EXCLUSION_SECONDS
        self._note(
            f"excluded nodes ({names}) may get jobs again, and for "
            f"{EXCLUSION_SECONDS / 60:.0f} min no node is excluded: {why}"
        )

    def forgive(self, now: float) -> None:
        """Allow nodes again whose exclusion is over."""
        for node, exclusion in list(self.excluded.items()):
            if now >= exclusion.until:
                del self.excluded[node]
                # the next failure excludes it again
                self._failures[node] = FAILURES - 1
                self._note(f"node {node} may get jobs again")
