"""Finds a scheduler by its address, its status file, a name, or as the only one.

Status files are written by seamless-dask-wrapper (directory ``server``, on its machine)
and by remote-http-launcher (directory ``client``, where the driver script runs; the port
may be that of a tunnel).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..command.spelling import question

#: Prefixes of the names of services that are clusters
PREFIXES = ("daskserver-", "pure-daskserver-")
DIRECTORIES = ("server", "client")

_ADDRESS = re.compile(r"([a-z]+://)?(\[[0-9a-f:%.\w]+\]|[^/\[\]:\s]+):(\d{1,5})/?")
#: The highest port
_MAX_PORT = 65_535


class NotFound(Exception):
    """There is no such cluster; the message is a sentence."""


class NotClear(Exception):
    """There are several such clusters; the message is a sentence."""


def resolve(
    what: str | None,
    home: Path | None = None,
    protocol: str = "tcp",
    others: Sequence[str] = (),
) -> str:
    """The address of the scheduler that `what` stands for.

    Parameters
    ----------
    what
        Address such as "tcp://host:port" or "host:port", or of a dashboard, such as
        "http://host:port/seamless"; path of a status file, name
        of a status file without its directory and ".json", or None.
    home
        Directory that has ".remote-http-launcher"; None for the user's home.
    protocol
        "tcp" or "tls", used if `what` has none.
    others
        Other words that the user may have meant, and misspelt.

    Raises
    ------
    NotFound
        If there is no such cluster, or it does not run; with its own error, or the name
        or word that was probably meant.
    NotClear
        If `what` is None and there are several.
    """
    if what is not None and what.startswith(("http://", "https://")):
        return what
    if what is not None and (address := _ADDRESS.fullmatch(what)):
        if int(address[3]) > _MAX_PORT:
            raise NotFound(
                f"{what} is no address: got port {address[3]}, allowed: 1 to {_MAX_PORT}."
            )
        return what if "://" in what else f"{protocol}://{what}"
    try:
        directory = (home or Path.home()) / ".remote-http-launcher"
        path = Path(what or "").expanduser()
    except RuntimeError as error:  # such as a user id without a name
        raise NotFound(f"{error} Name the address of the scheduler.") from None
    if what is None:
        return f"{protocol}://{_only_one(directory)}"
    known = status_files(directory)
    if not _exists(path) and "/" not in what:
        path = known.get(what.removesuffix(".json"), path)
    if not _exists(path):
        raise NotFound(
            f"{what!r} is no address such as tcp://host:port, and there is no such "
            f"status file, neither here nor in {directory}"
            f"{question(what, (*others, *known))}."
        )
    return f"{protocol}://{address_in(path)}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name of a file: it is too long, say
        return False


def status_files(directory: Path) -> dict[str, Path]:
    """The status files of clusters by name; files of this machine take precedence."""
    found: dict[str, Path] = {}
    for name in DIRECTORIES:
        for prefix in PREFIXES:
            for path in sorted((directory / name).glob(f"{prefix}*.json")):
                found.setdefault(path.stem, path)
    return found


def address_in(path: Path) -> str:
    """Host and port of the scheduler that a status file names.

    Raises NotFound if the file is not readable, or says that no cluster runs.
    """
    fields = _read(path)
    status = fields.get("status", "running")  # the launcher's own file has none
    if status == "failed":
        error = fields.get("error") or "without a reason"
        raise NotFound(f"The cluster of {path} has failed: {error}")
    if status != "running":
        raise NotFound(f"The cluster of {path} does not run yet: it is {status!r}.")
    host = fields.get("network_interface") or fields.get("hostname") or "127.0.0.1"
    port = fields.get("port")
    if type(port) is not int or not isinstance(host, str):
        raise NotFound(
            f"The status file {path} names no scheduler: port is {port!r}, "
            f"network_interface is {host!r}."
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _only_one(directory: Path) -> str:
    known = status_files(directory)
    problems = []
    running = {}
    for name, path in known.items():
        try:
            running[name] = address_in(path)
        except NotFound as problem:
            problems.append(str(problem))
    if len(running) == 1:
        return next(iter(running.values()))
    if running:
        names = ", ".join(sorted(running))
        raise NotClear(f"{len(running)} clusters run, name one of them: {names}")
    raise NotFound(
        " ".join(
            problems
            or [f"No cluster runs: {directory} has no status file of a daskserver."]
        )
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise NotFound(
            f"The status file {path} cannot be read: {error.strerror}."
        ) from None
    except ValueError:
        raise NotFound(f"The status file {path} is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise NotFound(f"The status file {path} has no fields.")
    return fields
