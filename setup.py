"""What pyproject.toml cannot say: the README as an index shows it.

There is no folder beside that page, so a link into the source tree would lead nowhere. It
becomes the name of the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

#: ``[text](target)`` and images, where the target is neither an address nor a heading
RELATIVE_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)#\s]+)[^)\s]*\)")
#: stands before the first heading of the second level
NOTE = "Files that are named here are in the source distribution.\n\n"


def page(readme: str) -> str:
    """The README without relative links."""

    def name(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        if image:
            return f"({text}: `{target}`)"
        return f"`{target}`" if text == target else f"{text} (`{target}`)"

    intro, heading, rest = readme.partition("## ")
    return RELATIVE_LINK.sub(name, intro + NOTE + heading + rest)


setup(
    long_description=page(Path(__file__).with_name("README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
)
