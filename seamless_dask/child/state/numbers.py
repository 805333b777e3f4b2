"""The parts of the state of a process that numbers depend on."""

from __future__ import annotations

import ctypes
import decimal
import os
import platform
import random
import sys
from typing import Any

from .part import Part, Remembered, loaded


class RandomNumbers(Part):
    """A fresh process is not seeded, so no job finds the seed of another."""

    title = "`random`: seed and state"

    def save(self) -> Any:
        return random.getstate()

    def restore(self, saved: Any) -> None:
        random.setstate(saved)

    def reset(self) -> list[str]:
        random.seed()
        return []


class NumpyRandomNumbers(Part):
    """The generator behind the functions of ``numpy.random``, if that is loaded."""

    title = "`numpy.random`: seed, state and bit generator of its functions"

    def __init__(self) -> None:
        self._original: Any = None
        self._unused = b""
        # Otherwise all processes that are forked would draw the same numbers.
        self.reset()

    @staticmethod
    def _module() -> Any:
        module = loaded("numpy.random")
        # Its import may have failed half-way.
        return module if hasattr(module, "mtrand") else None

    @staticmethod
    def _generator(module: Any) -> Any:
        # not get_bit_generator(): it came with numpy 1.24
        return module.mtrand._rand._bit_generator

    def save(self) -> Any:
        module = self._module()
        if module is None:
            return None
        generator = self._generator(module)
        if generator is self._original and self._words() == self._unused:
            second = self._take_second()
            if second is None:
                return generator, self._unused  # much faster
            name, numbers, position, *_ = module.mtrand._rand.get_state()
            module.mtrand._rand.set_state((name, numbers, position, 1, second))
        return generator, module.mtrand._rand.get_state(legacy=False)

    def restore(self, saved: Any) -> None:
        module = self._module()
        if module is None:
            return
        if saved is None:  # the job that goes on has not loaded it yet
            self.reset()
            return
        generator, state = saved
        if self._generator(module) is not generator:
            module.set_bit_generator(generator)
        if isinstance(state, bytes):
            self._set_words(state)
        else:
            module.mtrand._rand.set_state(state)

    def reset(self) -> list[str]:
        module = self._module()
        if module is None:
            return []
        generator = self._generator(module)
        if self._original is None and type(generator) is module.MT19937:
            self._original = generator
        if generator is not self._original:
            self._original = module.MT19937()
            module.set_bit_generator(self._original)
        if self._words() != self._unused:
            # As good as seed(), at a fifth of the time.
            self._set_words(os.urandom(4 * 624) + (624).to_bytes(4, sys.byteorder))
            self._unused = self._words()
        else:
            self._take_second()
        return []

    def _words(self) -> bytes:
        """Return the state, except for a stored second normal number."""
        return ctypes.string_at(self._original.ctypes.state_address, 4 * 625)

    def _set_words(self, words: bytes) -> None:
        self._write(words)
        self._take_second()

    def _write(self, words: bytes) -> None:
        # much faster than set_state()
        ctypes.memmove(self._original.ctypes.state_address, words, len(words))

    def _take_second(self) -> float | None:
        """Return the stored second normal number and forget it; None without one.

        Normal numbers are made in pairs, and the second one is stored for later. Reading
        the whole state would take fifty times as long.
        """
        draw = self._module().mtrand._rand.standard_normal
        words = self._words()
        number: float = draw()
        if self._words() == words:
            return number
        draw()  # the second one of this pair
        self._write(words)
        return None


class NumpyPrinting(Part):
    """Before numpy 2, the print options are global in the process."""

    title = "numpy's print options and error handling"

    def __init__(self) -> None:
        self._baseline: Any = None
        self._baseline = self.save()

    @staticmethod
    def _options() -> Any:
        module = loaded("numpy.core.arrayprint")
        # with numpy 2 a thread has its own, and each job has a new thread
        return None if module is None else vars(module).get("_format_options")

    def save(self) -> Any:
        options = self._options()
        return None if options is None else dict(options)

    def restore(self, saved: Any) -> None:
        options = self._options()
        if options is not None and saved is not None and options != saved:
            options.clear()
            options.update(saved)

    def reset(self) -> list[str]:
        options = self._options()
        if options is not None and self._baseline is None:
            # Loaded by a job, which may have changed them before we saw them.
            self._baseline = {**options, **_NUMPY_1_PRINTING}
        self.restore(self._baseline)
        return []


#: print options of numpy 1 after its import
_NUMPY_1_PRINTING = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "formatter": None,
    "legacy": sys.maxsize,
}


class LibraryRandomNumbers(Part):
    """``rand``, ``random`` and ``drand48`` of the C library; needs glibc.

    A fresh process has seed 1 for the first two, and zero for the last.
    """

    title = "`rand`, `random` and `drand48` of the C library (glibc)"

    #: words of state for each of the five types of generators that glibc has
    _WORDS = (1, 8, 16, 32, 64)

    def __init__(self) -> None:
        self._c: Any = None
        if platform.libc_ver()[0] == "glibc":
            self._c = ctypes.CDLL(None)
            self._c.initstate.restype = self._c.setstate.restype = ctypes.c_void_p
            self._c.initstate.argtypes = [
                ctypes.c_uint,
                ctypes.c_void_p,
                ctypes.c_size_t,
            ]
            self._c.setstate.argtypes = [ctypes.c_void_p]
            self._c.seed48.restype = ctypes.POINTER(ctypes.c_ushort * 3)
            self._buffer = self._scratch = (ctypes.c_int32 * 64)()
            # in use while the state is being read
            self._scratch = (ctypes.c_int32 * 64)()

    def save(self) -> Any:
        if self._c is None:
            return None
        # When it switches to another buffer, glibc completes the state in the present one.
        present = self._c.initstate(1, self._scratch, 128)
        kind = ctypes.c_int32.from_address(present).value % 5
        words = ctypes.string_at(present, 4 * self._WORDS[kind])
        self._c.setstate(present)
        zero = (ctypes.c_ushort * 3)()
        seed = (ctypes.c_ushort * 3)(*self._c.seed48(zero).contents)
        self._c.seed48(seed)
        return words, tuple(seed)

    def restore(self, saved: Any) -> None:
        if self._c is None:
            return
        words, seed = saved
        buffer = (ctypes.c_int32 * 64)()
        ctypes.memmove(buffer, words, len(words))
        self._c.setstate(buffer)
        self._buffer = buffer  # glibc no longer uses the previous one
        self._c.seed48((ctypes.c_ushort * 3)(*seed))

    def reset(self) -> list[str]:
        if self._c is not None:
            buffer = (ctypes.c_int32 * 64)()
            self._c.initstate(1, buffer, 128)
            self._buffer = buffer
            self._c.seed48((ctypes.c_ushort * 3)())
        return []


class DecimalContexts(Remembered):
    """The contexts from which new threads start; a job's own belongs to its thread."""

    title = "`decimal`: default, basic and extended context"

    _CONTEXTS = (decimal.DefaultContext, decimal.BasicContext, decimal.ExtendedContext)

    def save(self) -> list[Any]:
        return [context.__reduce__() for context in self._CONTEXTS]

    def restore(self, saved: list[Any]) -> None:
        for context, wanted in zip(self._CONTEXTS, saved, strict=True):
            if context.__reduce__() == wanted:
                continue
            template = decimal.Context(*wanted[1])
            for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp"):
                setattr(context, name, getattr(template, name))
            for signals in ("flags", "traps"):
                getattr(context, signals).update(getattr(template, signals))


def number_parts() -> list[Part]:
    """Return these parts, in the order in which they are put back."""
    return [
        RandomNumbers(),
        NumpyRandomNumbers(),
        LibraryRandomNumbers(),
        NumpyPrinting(),
        DecimalContexts(),
    ]
