"""The envelope of a submission: data that is not part of its transformation's identity.

Submissions of one transformation share one task, even with different envelopes. A
submission that insists on its envelope (``strict_dunder``) fails instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import EnvelopeMismatch


@dataclass(frozen=True, eq=False)
class Envelope:
    """The data that travels with a submission."""

    tf_dunder: dict[str, Any]
    scratch: bool

    def checksum(self) -> str:
        """Return a checksum, which is equal exactly for equal envelopes."""
        from seamless_transformer.transformation_cache import (
            _dunder_envelope_checksum,
        )

        return _dunder_envelope_checksum(self.tf_dunder, scratch=self.scratch)


def check(tf_checksum: str, own: Envelope, active: Iterable[Envelope]) -> None:
    """Compare the envelope of a strict submission with those of running submissions.

    Parameters
    ----------
    tf_checksum
        Checksum of the transformation.
    own
        The envelope of the submission.
    active
        The envelopes of the same transformation's submissions that have not ended.

    Raises
    ------
    EnvelopeMismatch
        If one of them differs.
    """
    checksum = own.checksum()
    if any(envelope.checksum() != checksum for envelope in active):
        raise EnvelopeMismatch(
            f"Transformation {tf_checksum} is already running with a different dunder "
            "envelope; wait for it to finish or cancel it before strict re-submission"
        )
