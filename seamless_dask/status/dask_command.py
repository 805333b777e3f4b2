"""``dask seamless``: the status command as a part of Dask's own command."""

from __future__ import annotations

import sys

import click


@click.command(
    "seamless",
    short_help="Show a cluster that runs Seamless transformations",
    add_help_option=False,  # the status command has its own
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def seamless(words: tuple[str, ...]) -> None:
    """Show a cluster that runs Seamless transformations: status, why, failures, ..."""
    from . import main  # only this needs it: Dask loads all of its commands

    sys.exit(main(list(words), prog="dask seamless"))
