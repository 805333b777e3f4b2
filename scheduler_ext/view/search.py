"""Finds transformations by the name of their function, or the first digits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..task_keys import checksum_of, code_of
from . import explain
from .explain import Subject
from .phrases import count, listed


def begin_so(subject: Subject, prefix: str) -> list[str]:
    """The checksums of known transformations that begin with a prefix, sorted."""
    keys = map(checksum_of, subject.machine.ledger.keys())
    known = {*subject.live.checksums(), *subject.journal.remembered(), *keys}
    return sorted(each for each in known if each and each.startswith(prefix))


def by_name(subject: Subject, codes: Collection[str], now: float) -> dict[str, Any]:
    """The transformations that run one of these codes, with the shape of :func:`.explain.why`.

    ``matches`` is {"total": int, "rows": [rows of overview]}: first the failed ones, then
    the unfinished ones, the oldest first, then the others that have ended, the newest
    first. There are no more than :data:`.explain.SHOWN` rows.
    """
    ledger, journal = subject.machine.ledger, subject.journal
    present = [*journal.with_worker, *journal.waiting, *ledger.keys()]
    keys = [key for key in dict.fromkeys(present) if code_of(key) in codes]
    ended = [each for each in journal.latest() if code_of(each.key) in codes]
    failed = [each for each in ended if each.ending in explain.FAILED]
    others = [each for each in ended if each.ending not in explain.FAILED]
    shown = [explain.ended_row(subject, each, now) for each in failed[: explain.SHOWN]]
    shown += [
        explain.row_of(subject, key, now) for key in keys[: explain.SHOWN - len(shown)]
    ]
    shown += [
        explain.ended_row(subject, e, now) for e in others[: explain.SHOWN - len(shown)]
    ]
    total = len(keys) + len(ended)
    numbers = {
        "failed": len(failed),
        "unfinished": len(keys),
        "otherwise ended": len(others),
    }
    parts = listed(f"{number} {what}" for what, number in numbers.items() if number)
    return {
        "checksum": None,
        "label": "",
        "found": bool(total),
        "state": "several" if total else "unknown",
        "reason": f"{count(total, 'transformation')}: {parts}"
        if total
        else "no transformation with this name is there, and none has ended lately",
        "ended": None,
        "failure": None,
        "matches": {"total": total, "rows": shown},
        "tasks": [],
    }
