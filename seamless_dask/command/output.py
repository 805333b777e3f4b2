"""Reports an output that cannot be written as a sentence: a full disk, a closed stream."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Watched:
    """The standard output, which remembers its first error; argparse ignores errors."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        if self._stream is None:
            self.error = OSError(errno.EBADF, "it is closed")
            raise self.error
        try:
            return self._stream.write(text)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except OSError as error:
            self.error = self.error or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def checked_output(code: int) -> Iterator[None]:
    """Exit if something that is printed inside cannot be written.

    It exits with 0 if the reader has ended, as after ``| head``, otherwise with a
    sentence and `code`. All that was printed is flushed at the end.
    """
    before: Any = sys.stdout
    watched = _Watched(before)
    try:
        with contextlib.redirect_stdout(cast(TextIO, watched)):
            yield
    except (OSError, SystemExit):
        if _flushed(watched) is None:
            raise
    error = _flushed(watched)
    if error is None:
        return
    if before is not None:
        # Python would try again to write it, and report an error, at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), before.fileno())
    if isinstance(error, BrokenPipeError):
        raise SystemExit(0)
    print(f"The output cannot be written: {error.strerror}.", file=sys.stderr)
    raise SystemExit(code)


def _flushed(watched: _Watched) -> OSError | None:
    """Flush; return the first error of this stream."""
    with contextlib.suppress(OSError):
        watched.flush()
    return watched.error
