"""Makes the submission of a transformation, or finds that it has a result already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from seamless_transformer.run import _driver_context

from ..errors import Unavailable
from ..neighbours import connections
from ..neighbours import transformation as definition
from ..neighbours.pins import checksums_in
from ..storage.cache import await_pending_uploads, contents_at_hand
from ..storage.database import known_result
from ..storage.recent import recent_buffers
from ..types import TransformationFutures, TransformationResult
from ..types import TransformationSubmission as Submission
from .nodes import Settled
from .submissions import checksums_of, deferred_submission_of, submission_of


class Preparation:
    """Makes the submissions of one evaluation.

    Parameters
    ----------
    keep_pace
        Waits until the scheduler is not too far behind the client's submissions.
    driver_context
        Whether a driver transformation asks for them.
    """

    def __init__(
        self, keep_pace: Callable[[], Awaitable[None]], driver_context: bool
    ) -> None:
        self._keep_pace = keep_pace
        self._driver_context = driver_context

    async def in_its_place(
        self, transformation: Any, pending: dict[str, TransformationFutures]
    ) -> Submission | Settled:
        """The same, when its turn comes to make requests."""
        async with connections.place():
            return await self.submission(transformation, pending)

    async def submission(
        self, transformation: Any, pending: dict[str, TransformationFutures]
    ) -> Submission | Settled:
        """Make a submission; the buffers that it names are stored, or will be.

        Parameters
        ----------
        transformation
            A `seamless_transformer.Transformation`.
        pending
            Inputs that have not ended, by the name of their pin.

        Returns
        -------
        TransformationSubmission or Settled
            The second if there is a result already.

        Raises
        ------
        Unavailable
            If the transformation cannot be constructed.
        """
        await self._keep_pace()
        if pending:
            submission = deferred_submission_of(
                transformation, pending, driver_context=self._driver_context
            )
        else:
            concrete = await self.concrete(transformation)
            if isinstance(concrete, Settled):
                return concrete
            submission = concrete
        submission.streams = definition.is_streamed(transformation)
        checksums = checksums_of(submission)
        submission.contents = contents_at_hand(checksums)
        await await_pending_uploads(checksums)
        return submission

    async def concrete(self, transformation: Any) -> Submission | Settled:
        """Make a submission of which all inputs are known, or find its result."""
        self.construct(transformation)
        tf_checksum = transformation._transformation_checksum
        if tf_checksum is None:
            raise Unavailable(transformation._exception or "Construction failed")
        transformation_dict, tf_dunder = definition.prepared(transformation)
        used = [tf_checksum.hex(), *checksums_in(transformation_dict)]
        recent_buffers.keep_uploaded(used)
        known = await known_result(tf_checksum.hex())
        if known is not None:
            return Settled(TransformationResult(tf_checksum.hex(), known))
        submission = submission_of(
            transformation_dict,
            tf_checksum=tf_checksum.hex(),
            tf_dunder=tf_dunder,
            scratch=transformation.scratch,
            strict_dunder=bool(transformation._strict_dunder),
        )
        may_recompute = definition.may_recompute_inputs(transformation)
        submission.allow_input_fingertip = may_recompute
        return submission

    def construct(self, transformation: Any) -> None:
        """Compute the checksum of a transformation."""
        with _driver_context(self._driver_context):
            transformation.construct()
