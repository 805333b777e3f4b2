"""The input and output of the permission machine: values without behaviour.

The checks at the end are applied to every event before it may change anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .needs import NESTED, Needs

RefusalKind = Literal["capacity", "cycle", "ceiling"]


@dataclass(frozen=True, slots=True)
class Request:
    """A holder asks for the permission to run one nested transformation.

    ``key`` is the Dask task key that the lease is bound to, or None; ``owner`` the
    task key of the transformation that asks, or None when it is not known; ``depth``
    the number of transformations above; ``wait`` is False when the caller wants a
    decision at once, even a refusal; ``needs`` are what the task needs on its worker.
    """

    lease_id: str
    holder: str
    key: str | None = None
    owner: str | None = None
    depth: int = 0
    wait: bool = True
    needs: Needs = NESTED


class IllegalEvent(ValueError):
    """An invalid event; the machine did not change."""


class Inconsistent(RuntimeError):
    """The machine contradicts itself: a bug of ours, never of a caller."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The holder may submit the transformation of the lease."""

    lease_id: str
    holder: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The lease is gone; ``reason`` is a sentence for people that begins with the kind."""

    lease_id: str
    holder: str
    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """The scheduler may send a task to a worker that it has held back."""

    key: str


Decision = Granted | Refused | Start


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One event of one lease, at a monotonic time in seconds."""

    at: float
    event: str
    lease_id: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of the machine; totals count from its creation."""

    capacity: int
    ceiling: int
    workers: int
    #: slots that are taken, by top-level transformations as well, ...
    slots_in_use: int
    #: ... of these, by transformations that execute; the others are on their way
    executing: int
    #: nested transformations that have a lease
    admitted: int
    #: transformations on workers that wait for their calls, and so take no slot
    lent: int
    #: transformations whose result is being stored, which takes no slot
    storing: int
    #: requests that wait
    waiting: int
    #: tasks that the scheduler holds back until a slot is free
    held: int
    #: requests that the current epoch still allows beyond the capacity
    allowance: int
    #: seconds
    epoch: float
    granted_total: int
    #: {"capacity", "cycle" or "ceiling": number of refusals}
    refused_total: Mapping[str, int]
    #: slots given out beyond the capacity, by the load rule or against a deadlock
    over_capacity_total: int
    #: granted leases that ended, for whatever reason
    ended_total: int
    expired_total: int
    unknown_releases_total: int
    #: transformations that ran in a driver script since there was no room here
    fallbacks_total: int


def is_number(value: object) -> bool:
    """Whether a value is a finite number (a bool is none)."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -math.inf < value < math.inf
    )


def check_time(now: float) -> None:
    if not is_number(now):
        raise IllegalEvent(f"time: got {now!r}, allowed: monotonic seconds")


def check_count(what: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise IllegalEvent(f"{what}: got {value!r}, allowed: whole number >= {least}")


def check_name(what: str, value: str) -> None:
    if not isinstance(value, str) or not value:
        raise IllegalEvent(f"{what}: got {value!r}, allowed: a text that is not empty")


def check_request(request: Request) -> None:
    check_name("lease id", request.lease_id)
    check_name("holder", request.holder)
    if request.key is not None:
        check_name("key", request.key)
    if request.owner is not None:
        check_name("owner", request.owner)
    check_count("depth", request.depth, 0)
    if not isinstance(request.wait, bool):
        raise IllegalEvent(f"wait: got {request.wait!r}, allowed: true or false")
