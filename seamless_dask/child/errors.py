"""Errors of user code as texts that any message can carry.

Any exception ends its transformation. That includes exceptions that are no `Exception`,
such as those of `sys.exit`, cancelled asyncio tasks, test frameworks and extensions
written in Rust, and exceptions whose conversion to text fails. Runs inside each Seamless
process.
"""

from __future__ import annotations

import traceback

#: characters of an error that are kept
TEXT_LIMIT = 1024 * 1024
#: of these, characters from its beginning; its end usually names the cause
HEAD = TEXT_LIMIT // 4


def error_text(error: BaseException) -> str:
    """Return the traceback of an exception, from the code of the user on.

    Parameters
    ----------
    error
        Any exception.

    Returns
    -------
    str
        At most about `TEXT_LIMIT` characters, all of which UTF-8 can encode.

    Examples
    --------
    >>> error_text(KeyboardInterrupt("stop"))
    'KeyboardInterrupt: stop\\n'
    """
    try:
        last = _last_lines(error)
    except BaseException:  # noqa: BLE001 - code of the user runs here, too
        last = _last_line(error)
    try:
        frames = _frames_of_user(error)
    except BaseException as failure:  # noqa: BLE001 - as above
        frames = [f"  (not to be had: {type(failure).__name__})\n"]
    header = ["Traceback (most recent call last):\n"] if frames else []
    return wire_text("".join([*header, *frames, last]))


def _last_lines(error: BaseException) -> str:
    return "".join(str(s) for s in traceback.format_exception_only(type(error), error))


def _last_line(error: BaseException) -> str:
    """Return the last line for classes that `traceback` cannot format."""
    name = type(error).__name__
    try:
        return f"{name}: {error}\n"
    except BaseException as failure:  # noqa: BLE001 - as above
        return f"{name} (its text fails: {type(failure).__name__})\n"


def _frames_of_user(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    begin = 1
    for number, frame in enumerate(frames):
        if frame.name == "exec_code" and frame.filename.endswith("cached_compile.py"):
            begin = number + 1
    return traceback.format_list(frames[begin:])


def wire_text(text: str) -> str:
    """Return a text that can be sent and stored: valid, and not too long."""
    # Make a plain `str` of it: a subclass may behave in any way.
    text = "".join(text) if type(text) is not str else text
    if len(text) > TEXT_LIMIT:
        left_out = len(text) - TEXT_LIMIT
        tail = text[HEAD - TEXT_LIMIT :]
        text = f"{text[:HEAD]}\n[... {left_out} characters left out ...]\n{tail}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
