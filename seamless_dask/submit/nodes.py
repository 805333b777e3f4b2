"""The transformations that are being evaluated, each once.

A transformation that several others depend on, or that was started itself, has one node,
which all evaluations on the same client share. Otherwise an evaluation would walk through
everything below its root again: for a chain whose members are all started, the work
would grow with the square of its length.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ..types import TransformationFutures, TransformationResult


@dataclass(frozen=True)
class Submitted:
    """A transformation has a task on the cluster."""

    futures: TransformationFutures


@dataclass(frozen=True)
class Settled:
    """A transformation has come to an end, and has no task to wait for.

    Parameters
    ----------
    result
        The outcome to put into the transformation; None: that has been done.
    cancelled
        Whether it was cancelled.
    """

    result: TransformationResult | None = None
    cancelled: bool = False


@dataclass(eq=False)
class Node:
    """A transformation that has no result yet."""

    transformation: Any
    #: the client on whose loop it is evaluated
    client: Any
    #: its submission, which ends when it has a task or needs none
    submission: asyncio.Task[Submitted | Settled]
    #: whether its evaluation was cancelled
    given_up: bool = False

    def publish(self) -> None:
        """Let other evaluations find it."""
        self.transformation._dask_node = self

    def withdraw(self) -> None:
        """Let no other evaluation find it any more."""
        if self.transformation._dask_node is self:
            self.transformation._dask_node = None


def node_of(transformation: Any, client: Any) -> Node | None:
    """Return the node of another evaluation on the same client, or None."""
    node: Node | None = transformation._dask_node
    if node is None or node.client is not client or node.given_up:
        return None
    return node
