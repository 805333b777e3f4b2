"""Names that were probably meant by names that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: How similar a name must be, from 0 to 1
_CUTOFF = 0.75


def meant(written: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a written one; None if none is similar.

    Upper and lower case, hyphens and underscores are the same. Only what is behind the
    last dot of the written name counts: the rest says where it is written.
    """
    names = {_plain(name): name for name in known}
    found = get_close_matches(
        _plain(written.rpartition(".")[2]), names, n=1, cutoff=_CUTOFF
    )
    return names[found[0]] if found else None


def question(written: str, known: Iterable[str]) -> str:
    """Such as `` (did you mean walltime?)``, or empty."""
    name = meant(written, known)
    return "" if name is None else f" (did you mean {name}?)"


def misspelt(unknown: Iterable[str], known: Iterable[str]) -> list[str]:
    """A sentence for each unknown parameter that is like a known one."""
    known = list(known)
    pairs = [(written, meant(written, known)) for written in unknown]
    return [
        f"{written}: is not known; did you mean {name}?"
        for written, name in pairs
        if name is not None
    ]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
