"""Names of functions, which come from the code of users, by the checksum of the code.

Pure and bounded. Drivers and workers read a name in the code and send it once (see
:func:`.messages.function`); the key of a task tells which code it runs, so the
scheduler knows the names of all tasks.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from .task_keys import code_of, code_of_prefix

#: Characters of a name, at the most
MAX_NAME = 60
#: Names that are remembered: those of the codes that were used last
MAX_NAMES = 2_000
#: Digits of the checksum of a code that stand for an unknown name
CODE_SHOWN = 8
#: Digits of a checksum beside a name: enough to ask for it
DIGITS = 12


def clean(text: Any, limit: int = MAX_NAME) -> str:
    """A text on one line that can be sent, logged and shown anywhere; may be empty.

    Runs of blanks, line ends, control characters, lone surrogates and marks that change
    the direction of writing become one blank; a text that is too long ends with "…".
    """
    if not isinstance(text, str):
        return ""
    # only the beginning is looked at, however long the text is
    begin = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    words = " ".join(begin.split())
    if len(words) <= limit and len(text) <= 4 * limit:
        return words
    return words[: limit - 1].rstrip() + "…"


def unnamed(key: str | None) -> str:
    """What stands for an unknown name: the first digits of the checksum of the code.

    That is not known of a transformation whose code is computed by another one.
    """
    code = code_of(key)
    return "unnamed" if code is None else f"code {code[:CODE_SHOWN]}"


class Functions:
    """The names of the functions whose transformations a scheduler has had lately."""

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self._limit = limit
        #: {checksum of the code: name}, in the order of the last use
        self._names: OrderedDict[str, str] = OrderedDict()

    def learn(self, code: str, name: str) -> None:
        """The name of a function; one that is empty after :func:`clean` is ignored."""
        name = clean(name)
        if name:
            self._names[code] = name
            self._names.move_to_end(code)
            if len(self._names) > self._limit:
                self._names.popitem(last=False)

    def used(self, code: str) -> None:
        """There is another transformation with this code."""
        if code in self._names:
            self._names.move_to_end(code)

    def name(self, key: str | None) -> str | None:
        """The name of the function that a task runs, None if it is not known."""
        code = code_of(key)
        return None if code is None else self._names.get(code)

    def name_of(self, prefix: str) -> str | None:
        """The name of the function that the tasks of a Dask prefix run, if known."""
        code = code_of_prefix(prefix)
        return None if code is None else self._names.get(code)

    def shown(self, key: str | None) -> str:
        """The same for people: see :func:`unnamed`."""
        return self.name(key) or unnamed(key)

    def named(self, text: str) -> set[str]:
        """The checksums of the codes with this name, or whose names contain it.

        Upper and lower case are the same. If a name is equal, no other one counts.
        """
        text = clean(text).casefold()
        found = {code: name.casefold() for code, name in self._names.items()}
        equal = {code for code, name in found.items() if name == text}
        return equal or {code for code, name in found.items() if text and text in name}

    def __len__(self) -> int:
        return len(self._names)
