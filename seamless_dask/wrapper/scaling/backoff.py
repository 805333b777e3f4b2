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
    #: The reason of the last failure; empty if there is none.
    reason: str = ""
    #: No further attempt before this time.
    retry_at: float = 0.0

    def failed(self, reason: str, now: float) -> bool:
        """Count a failure; return False if it is part of the previous one."""
        if self.failures and now < self.retry_at:
            return False
        self.failures += 1
        # the exponent is limited, so that the power cannot overflow
        pause = min(self.first * 2 ** min(self.failures - 1, 16), self.longest)
        self.retry_at = now + pause
        self.reason = reason
        return True

    def worked(self) -> None:
        """Forget the failures."""
        self.failures, self.reason, self.retry_at = 0, "", 0.0
