"""Tells which hashservers and databases this process uses, and a cluster should use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def of_current_stage(remote_clients: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the services of stages that this process has used before.

    seamless-config names every service that the process has ever launched for a cluster.
    Workers of one stage would use the services of another stage, and a driver script that
    enters the same stage directly would get another configuration.

    Parameters
    ----------
    remote_clients
        The result of ``seamless_config.extern_clients.collect_remote_clients``.
    """
    from seamless_remote import buffer_remote, database_remote

    launched: dict[str, Any] = {
        "buffer": buffer_remote._launched_clients,
        "database": database_remote._launched_clients,
    }
    in_use: dict[str, Any] = {
        "buffer": [
            *buffer_remote._read_server_clients,
            *buffer_remote._read_folders_clients,
            *buffer_remote._write_server_clients,
        ],
        "database": [
            *database_remote._read_database_clients,
            *database_remote._write_database_clients,
        ],
    }
    result = dict(remote_clients)
    for kind in launched:
        left = {_place(c.url, c.directory) for c in launched[kind].values()}
        left -= {_place(c.url, c.directory) for c in in_use[kind]}
        result[kind] = [
            entry
            for entry in remote_clients.get(kind) or []
            if _place(entry.get("url"), entry.get("directory")) not in left
        ]
    return result


def _place(url: str | None, directory: str | None) -> tuple[str | None, str | None]:
    if url is not None:
        url = url.rstrip("/")
        if "://" not in url:
            url = f"http://{url}"
    return url, directory


def has_hashserver() -> bool:
    """Whether there is a hashserver to which this process can write."""
    from seamless_remote import buffer_remote

    return bool(buffer_remote.has_write_server())


def databases() -> list[Any]:
    """Return the clients of seamless-remote for databases, as configured now."""
    from seamless_remote import database_remote

    return _distinct(
        database_remote._read_database_clients, database_remote._write_database_clients
    )


def hashservers() -> list[Any]:
    """Return the clients of seamless-remote for hashservers, as configured now."""
    from seamless_remote import buffer_remote

    return _distinct(
        buffer_remote._read_server_clients, buffer_remote._write_server_clients
    )


def _distinct(*groups: Sequence[Any]) -> list[Any]:
    return list({id(client): client for group in groups for client in group}.values())
