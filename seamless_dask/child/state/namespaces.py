"""The part of the state of a process that is names in modules of the standard library."""

from __future__ import annotations

import asyncio
import builtins
import codecs
import collections
import concurrent.futures.thread
import contextvars
import copy
import ctypes
import datetime
import decimal
import functools
import gc
import glob
import hashlib
import io
import json
import linecache
import logging
import math
import multiprocessing.connection
import operator
import os
import pathlib
import pickle
import queue
import random
import re
import select
import selectors
import shutil
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import uuid
import warnings
import weakref
from types import ModuleType
from typing import Any

from .additions import Additions
from .dict_versions import ARE_TOLD, DictVersions
from .part import Part, same_entries, same_items

#: modules whose names are put back: those in which users replace functions
NAMESPACES: tuple[ModuleType, ...] = (
    builtins,
    sys,
    os,
    os.path,
    time,
    datetime,
    random,
    math,
    statistics,
    decimal,
    json,
    pickle,
    copy,
    re,
    io,
    pathlib,
    glob,
    shutil,
    tempfile,
    functools,
    subprocess,
    threading,
    signal,
    socket,
    ssl,
    uuid,
    logging,
    warnings,
    # The Seamless process itself needs the following ones.
    asyncio,
    asyncio.base_events,
    asyncio.events,
    asyncio.futures,
    asyncio.locks,
    asyncio.runners,
    asyncio.selector_events,
    asyncio.tasks,
    codecs,
    collections,
    concurrent.futures,
    concurrent.futures._base,
    concurrent.futures.thread,
    contextvars,
    ctypes,
    gc,
    hashlib,
    linecache,
    multiprocessing.connection,
    operator,
    queue,
    select,
    selectors,
    struct,
    traceback,
    types,
    weakref,
)

#: classes whose attributes are put back
CLASSES: tuple[type, ...] = (
    json.JSONEncoder,
    json.JSONDecoder,
    logging.Logger,
    pathlib.Path,
    pathlib.PurePath,
    random.Random,
    subprocess.Popen,
    threading.Thread,
    # The Seamless process itself needs the following ones.
    asyncio.BaseEventLoop,
    asyncio.Condition,
    asyncio.Event,
    asyncio.Handle,
    asyncio.Lock,
    asyncio.Queue,
    asyncio.Semaphore,
    asyncio.TimerHandle,
    asyncio.selector_events.BaseSelectorEventLoop,
    concurrent.futures.Executor,
    concurrent.futures.Future,
    concurrent.futures.ThreadPoolExecutor,
    multiprocessing.connection.Connection,
    queue.Queue,
    selectors.BaseSelector,
    selectors.DefaultSelector,
    socket.socket,
    threading.Condition,
    threading.Event,
    threading.Semaphore,
)


class Namespaces(Part):
    """Names of modules and classes of the standard library that were replaced.

    All other parts use these modules, so they are saved and put back while the names are
    those of the baseline. `reset` puts the builtin functions back first, by methods only.
    """

    title = "Names in modules and classes of the standard library (list below)"

    def __init__(self, additions: Additions) -> None:
        self._additions = additions
        self._owners: tuple[Any, ...] = (*NAMESPACES, *CLASSES)
        self._baseline = [dict(vars(owner)) for owner in self._owners]
        self._builtins = vars(builtins)
        #: names that packages have added since
        self._added: list[dict[str, Any]] = [{} for _ in self._owners]
        self._versions = DictVersions(map(vars, self._owners))
        self._version_of_builtins = DictVersions([self._builtins])
        self._only_sys = [self._owners.index(sys)]

    def save(self) -> list[dict[str, Any]]:
        of_builtins = self._builtins.copy()
        self._builtins.update(self._baseline[0])
        saved = [
            known if same_entries(names, known) else dict(names)
            for names, known in zip(
                [of_builtins, *map(vars, self._owners[1:])], self._baseline, strict=True
            )
        ]
        self._put_back(builtins, saved[0])
        return saved

    def are_changed(self, saved: list[dict[str, Any]]) -> bool:
        """Say whether names in the result of `save` differ from the baseline."""
        return not same_items(saved, self._baseline)

    def restore(self, saved: list[dict[str, Any]]) -> None:
        # The builtin functions last: this code needs those of the baseline.
        every = [*zip(self._owners, saved, self._added, strict=True)]
        for owner, wanted, added in reversed(every):
            # Names that packages have added since stay, as the packages do.
            self._put_back(owner, {**added, **wanted} if added else wanted)

    @staticmethod
    def _put_back(owner: Any, wanted: dict[str, Any]) -> None:
        now = vars(owner)
        if same_entries(now, wanted):
            return
        now = dict(now)
        extra = [
            name
            for name in now.keys() - wanted.keys()
            if not _is_submodule(owner, name, now[name])
        ]
        put, remove = setattr, delattr  # these may be among the names
        for name, value in wanted.items():
            if name not in now or now[name] is not value:
                put(owner, name, value)
        for name in extra:
            remove(owner, name)

    def put_back(self) -> None:
        """Put back names that were replaced or removed, unless only `sys` has changed.

        `sys` holds the streams of a job until its end.
        """
        self._put_builtins_back()
        changed = self._versions.changed()
        if changed and changed != self._only_sys:
            self.reset()

    def replaced(self) -> list[str]:
        """Return the names of the builtin functions that are replaced or removed."""
        found = self._builtins
        return [
            f"builtins.{name}"
            for name, value in self._baseline[0].items()
            if name not in found or found[name] is not value
        ]

    def _put_builtins_back(self) -> None:
        # Where dictionaries have no versions, the check itself needs these functions.
        if not (ARE_TOLD and self._version_of_builtins.are_unchanged()):
            self._builtins.update(self._baseline[0])

    def reset(self) -> list[str]:
        self._put_builtins_back()
        changed = self._versions.changed()
        for i in changed:
            owner, wanted = self._owners[i], self._baseline[i]
            if not same_entries(vars(owner), wanted):
                for name, value in list(vars(owner).items()):
                    if name not in wanted and self._additions.is_one(name, value):
                        self._added[i][name] = value
                self._put_back(owner, {**wanted, **self._added[i]})
                # submodules have stayed, and the order may be another
                self._baseline[i] = dict(vars(owner))
        if changed:
            self._versions.remember()
            self._version_of_builtins.remember()
        return []


def _is_submodule(owner: Any, name: str, value: Any) -> bool:
    return (
        isinstance(owner, ModuleType)
        and isinstance(value, ModuleType)
        and sys.modules.get(f"{owner.__name__}.{name}") is value
    )
