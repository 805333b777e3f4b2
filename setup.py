"""What pyproject.toml cannot say: the README as an index shows it.

There is no folder beside that page, so links to files become addresses in the repository,
at the tag of this version.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
#: ``](target)`` where the target is neither an address nor a heading
RELATIVE = re.compile(r"\]\((?!https?://|#)(?=[^)\s]+\))")


def declared(name: str) -> str:
    """A text of pyproject.toml; the oldest Python that builds has no tomllib."""
    found = re.search(
        rf'^{name} = "(.+)"$',
        (HERE / "pyproject.toml").read_text("utf-8"),
        re.MULTILINE,
    )
    if found is None:
        raise ValueError(f"pyproject.toml has no line {name} = ...")
    return found[1]


def page(readme: str) -> str:
    """The README with absolute links."""
    base = f"{declared('Repository')}/blob/v{declared('version')}/"
    return RELATIVE.sub(f"]({base}", readme)


setup(
    long_description=page((HERE / "README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
)
