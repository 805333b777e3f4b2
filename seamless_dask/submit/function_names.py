"""Names of the functions that transformations run, for people who watch a cluster.

A name is read in the code once, and sent to the scheduler once. Nothing is fetched for
it: while only the checksum of a code is known, it has no name, until a worker that
executes it has the code.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from seamless import Buffer, Checksum
from seamless.caching.buffer_cache import get_buffer_cache

from scheduler_ext.functions import DIGITS, clean, unnamed
from scheduler_ext.messages import function
from scheduler_ext.task_keys import checksum_of, code_of

from ..neighbours.pins import code_checksum

if TYPE_CHECKING:
    from distributed import Client

#: codes whose name is remembered, the latest ones
MAX_CODES = 2_000
#: bytes of a code in which its name is looked for
LOOKED_AT = 256 * 1024
#: words of a command in bash
WORDS = 3
#: languages that are not compiled
PYTHON = ("python", "ipython")
#: the function that seamless-transformer calls in compiled code
ENTRY = "transform"
#: what a client does while messages can be sent
_CONNECTED = ("running", "connecting", "newly-created")

_FUNCTION = re.compile(r"^(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)
_KEY = re.compile(r"base(?:_[0-9a-f]{64})?-[0-9a-f]{64}(?:-\w+)*")
#: lines that say little about a code
_DULL = re.compile(r"\s*(?:#.*|import\b.*|from\b.*|@.*|set\s.*|[\"']{3}.*)?$")


def name_in(code: str, language: str) -> str:
    """Return the name of a transformation's code.

    Parameters
    ----------
    code
        Its source.
    language
        That of the transformation; all but Python and bash are compiled.

    Returns
    -------
    str
        The function's name in Python, the first words of the command in bash, or the
        entry function with its language. Code without a function has its first line.

    Examples
    --------
    >>> name_in("def score(x):\\n    return x", "python")
    'score'
    >>> name_in("# all of them\\nsort -n -k 2 input", "bash")
    'sort -n -k'
    """
    if language not in (*PYTHON, "bash"):
        return clean(f"{ENTRY} ({language})")
    if language != "bash":
        functions = _FUNCTION.findall(code)
        if functions:
            return clean(functions[-1])
    lines = code.strip().splitlines() or ["(empty)"]
    line = next((line for line in lines if not _DULL.match(line)), lines[0])
    return clean(" ".join(line.split()[:WORDS]) if language == "bash" else line)


class FunctionNames:
    """The names that one client knows, and has sent to its scheduler.

    Any thread may call.

    Parameters
    ----------
    client
        Sends the names.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        #: {checksum of the code: name}, in the order of arrival
        self._names: OrderedDict[str, str] = OrderedDict()

    def note(
        self,
        transformation_dict: Mapping[str, Any],
        at_hand: Callable[[str], Buffer | None] | None = None,
    ) -> str | None:
        """Return the name of a transformation's code; tell the scheduler a new one.

        Parameters
        ----------
        transformation_dict
            The transformation.
        at_hand
            Returns a buffer that is in memory; this process's cache by default.

        Returns
        -------
        str or None
            None if the code is not at hand.
        """
        checksum = code_checksum(transformation_dict)
        if checksum is None:
            return None
        name = self._names.get(checksum)
        if name is not None:
            return name
        buffer = (at_hand or _in_cache)(checksum)
        if buffer is None:
            return None
        code = buffer.content[:LOOKED_AT].decode("utf-8", "replace")
        name = name_in(code, str(transformation_dict.get("__language__", "python")))
        if name and self._client.status in _CONNECTED:
            self.learn(checksum, name)
            self._client._send_to_scheduler(function(checksum, name))
        return name

    def learn(self, checksum: str | None, name: str | None) -> None:
        """Remember a name that the scheduler knows already."""
        if checksum is None or not name or checksum in self._names:
            return
        with self._lock:
            self._names[checksum] = name
            if len(self._names) > MAX_CODES:
                self._names.popitem(last=False)

    def shown(self, key: str) -> str:
        """Return the name of the function that a task runs, or what stands for it."""
        return self._names.get(code_of(key) or "") or unnamed(key)

    def readable(self, text: str) -> str:
        """Return a text with names and checksums in place of the keys of tasks."""
        return _KEY.sub(lambda match: self._label(match[0]), text)

    def _label(self, key: str) -> str:
        checksum = checksum_of(key)
        digits = "" if checksum is None else f" {checksum[:DIGITS]}"
        return self.shown(key) + digits


def _in_cache(checksum: str) -> Buffer | None:
    return get_buffer_cache().get(Checksum(checksum))
