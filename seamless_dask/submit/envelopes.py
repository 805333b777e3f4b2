"""The envelope of a submission: what travels with a transformation beside its identity.

Two submissions of one transformation are one task, whatever their envelopes, except
for those who insist on theirs (``strict_dunder``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import EnvelopeMismatch


@dataclass(frozen=True, eq=False)
class Envelope:
    """What `checksum` compares."""

    tf_dunder: dict[str, Any]
    scratch: bool

    def checksum(self) -> str:
        """Return what is equal exactly for equal envelopes."""
        from seamless_transformer.transformation_cache import (
            _dunder_envelope_checksum,
        )

        return _dunder_envelope_checksum(self.tf_dunder, scratch=self.scratch)


def check(tf_checksum: str, own: Envelope, active: Iterable[Envelope]) -> None:
    """Compare the envelope of a strict submission with those that are under way.

    Parameters
    ----------
    tf_checksum
        Of the transformation.
    own
        The envelope of the submission.
    active
        Those of the submissions of the same transformation that have not ended.

    Raises
    ------
    EnvelopeMismatch
        If one is another.
    """
    checksum = own.checksum()
    if any(envelope.checksum() != checksum for envelope in active):
        raise EnvelopeMismatch(
            f"Transformation {tf_checksum} is already running with a different dunder "
            "envelope; wait for it to finish or cancel it before strict re-submission"
        )
