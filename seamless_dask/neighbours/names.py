"""The entries for private names of other packages, and whether these names exist.

An entry says which name of which package we use, how, why, and in which processes. The
check of an entry takes some microseconds, and imports nothing.
"""

from __future__ import annotations

import dis
import enum
import inspect
import sys
from functools import cache
from types import FunctionType, ModuleType
from typing import Any, NamedTuple


class Where(enum.Flag):
    """The kinds of process that need a name."""

    DRIVER = enum.auto()
    WORKER = enum.auto()
    CHILD = enum.auto()
    WRAPPER = enum.auto()


class Use(str, enum.Enum):
    """How a name is used."""

    #: `seamless_dask.neighbours.replacing` puts something else in its place
    REPLACED = "replaced"
    #: a subclass of ours overrides it
    OVERRIDDEN = "overridden"
    #: it is assigned as the package itself does
    SET = "set"
    READ = "read"


class Name(NamedTuple):
    """A name that its package may change without notice.

    Attributes
    ----------
    distribution
        The name of the installed package; "Python" for the standard library.
    module
        The module that defines it. For a class, the module that the class itself names.
    name
        The path in the module, with dots: an attribute of a class or of its instances,
        a variable of a function, or an attribute that a function or method assigns.
    use, where
        How it is used, and by which processes.
    reason
        The purpose, in a few words.
    unless
        If the module has this other name, the entry is not needed.
    needed
        False: if the name is missing there is nothing to replace, and all is well.
    """

    distribution: str
    module: str
    name: str
    use: Use
    where: Where
    reason: str
    unless: str = ""
    needed: bool = True

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Module(NamedTuple):
    """Makes the entries of one module."""

    distribution: str
    module: str

    def replaced(
        self, name: str, where: Where, reason: str, *, needed: bool = True
    ) -> Name:
        """Return an entry for a name that is replaced."""
        return Name(*self, name, Use.REPLACED, where, reason, needed=needed)

    def overridden(self, name: str, where: Where, reason: str) -> Name:
        """Return an entry for a name that a subclass of ours overrides."""
        return Name(*self, name, Use.OVERRIDDEN, where, reason)

    def set(self, name: str, where: Where, reason: str) -> Name:
        """Return an entry for a name that is assigned."""
        return Name(*self, name, Use.SET, where, reason)

    def read(self, name: str, where: Where, reason: str, *, unless: str = "") -> Name:
        """Return an entry for a name that is read or called."""
        return Name(*self, name, Use.READ, where, reason, unless)


def is_there(entry: Name) -> bool:
    """Return whether a name exists; its module must have been imported."""
    module = sys.modules[entry.module]
    if entry.unless and hasattr(module, entry.unless):
        return True
    owner: Any = module
    *path, last = entry.name.split(".")
    for part in path:
        if not _has(owner, part):
            return False
        owner = getattr(owner, part)
    return _has(owner, last)


def _has(owner: Any, name: str) -> bool:
    if isinstance(owner, ModuleType):
        return name in vars(owner)
    if isinstance(owner, type):
        return any(name in vars(each) for each in owner.__mro__) or any(
            name in _made(each) for each in owner.__mro__
        )
    if isinstance(owner, FunctionType):
        code = inspect.unwrap(owner).__code__
        variables = (*code.co_varnames, *code.co_cellvars)
        return name in variables or name in _stored(code)
    return hasattr(owner, name)


def _made(owner: type) -> frozenset[str]:
    """Return the attributes that the constructor of a class assigns."""
    constructor = vars(owner).get("__init__")
    if not isinstance(constructor, FunctionType):
        return frozenset()
    return _stored(inspect.unwrap(constructor).__code__)


_STORE = dis.opmap["STORE_ATTR"]
_EXTENDED = dis.opmap["EXTENDED_ARG"]


@cache
def _stored(code: Any) -> frozenset[str]:
    """Return the attributes to which a function assigns, by its bytecode.

    Each instruction has two bytes. `dis.get_instructions` takes fifty times as long.
    """
    names: set[str] = set()
    high = 0
    content = code.co_code
    for operation, argument in zip(content[::2], content[1::2], strict=True):
        if operation == _EXTENDED:
            high = (high | argument) << 8
            continue
        if operation == _STORE:
            names.add(code.co_names[high | argument])
        high = 0
    return frozenset(names)
