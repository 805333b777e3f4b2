"""The code blocks of a page, as a reader would use them: one after the other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"`([\w~./-]+\.(?:json|py|sh|yaml))`")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    #: the file that the paragraph above names last, where it is to be saved
    file: str | None


def blocks(page: str) -> Iterator[Block]:
    """Yield the code blocks of a page in Markdown."""
    end = 0
    for found in BLOCK.finditer(page):
        between = page[end : found.start()].strip()
        named = FILE.findall(between.rpartition("\n\n")[2])
        yield Block(found[1], found[2], named[-1] if named else None)
        end = found.end()


def as_script(page: str) -> str:
    """One bash script that saves the files and runs the commands, in their order.

    A block in another language than bash for which the text above names no file is left
    out: it is a fragment.
    """
    lines = []
    for block in blocks(page):
        if block.language == "bash":
            lines.append(block.text)
        elif block.file is not None:
            # not quoted: the shell replaces ~ by the home directory
            lines.append(f"mkdir -p $(dirname {block.file})\n")
            lines.append(f"printf %s {shlex.quote(block.text)} > {block.file}\n")
    return "".join(lines)
