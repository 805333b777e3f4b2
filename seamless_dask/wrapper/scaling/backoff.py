"""A pause after failures that doubles with every one. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """Failures in a row of one kind; times are monotonic seconds."""

    #: Pause after the first failure, and the longest one, in seconds.
    first: float
    longest: float
    failures: int = 0
    #: Why the last of them happened; empty if there is none in a row.
    reason: str = ""
    #: No further try before this time.
    retry_at: float = 0.0

    def failed(self, reason: str, now: float) -> bool:
        """Count a failure; False if it belongs to the one before."""
        if self.failures and now < self.retry_at:
            return False
        self.failures += 1
        # a power that cannot overflow
        pause = min(self.first * 2 ** min(self.failures - 1, 16), self.longest)
        self.retry_at = now + pause
        self.reason = reason
        return True

    def worked(self) -> None:
        """Forget the failures."""
        self.failures, self.reason, self.retry_at = 0, "", 0.0
