"""Free ports for the scheduler and its dashboard."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection

from ..exit_codes import NoFreePort


def free_ports(
    host: str, start: int, end: int, count: int, avoid: Collection[int] = ()
) -> list[int]:
    """Return `count` ports from `start` to `end` (inclusive) that are free on `host`.

    They are drawn at random: wrappers that start at the same time in the same range
    would otherwise all choose the same. A port can be taken between this check and its
    use, so the caller must be ready to `avoid` some and ask again.
    """
    addresses = local_addresses(host)
    candidates = [port for port in range(start, end + 1) if port not in avoid]
    random.SystemRandom().shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if all(_is_free(family, address, port) for family, address in addresses):
            found.append(port)
            if len(found) == count:
                return found
    raise NoFreePort(
        f"The port range {start}-{end} on host {host} has {len(found)} free "
        f"port{'' if len(found) == 1 else 's'}, but {count} are needed "
        "(scheduler and dashboard)."
    )


def taken_ports(host: str, start: int, end: int) -> list[int]:
    """The ports from `start` to `end` (inclusive) that are not free on `host`.

    Raises `NoFreePort` if `host` is no address of this machine.
    """
    addresses = local_addresses(host)
    return [
        port
        for port in range(start, end + 1)
        if not all(_is_free(family, address, port) for family, address in addresses)
    ]


def local_addresses(host: str) -> list[tuple[socket.AddressFamily, tuple]]:
    """Socket addresses of `host` on this machine, with port 0.

    Raises `NoFreePort` if there is none.
    """
    try:
        infos = socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise NoFreePort(
            f"The host {host!r} of --host cannot be resolved: {error.strerror}."
        ) from None
    found: list[tuple[socket.AddressFamily, tuple]] = []
    for family, _, _, _, address in infos:
        if _bind_error(family, address) is None:
            found.append((family, address))
    if not found:
        raise NoFreePort(f"The host {host!r} of --host is no address of this machine.")
    return found


def _is_free(family: socket.AddressFamily, address: tuple, port: int) -> bool:
    return _bind_error(family, (address[0], port, *address[2:])) is None


def _bind_error(family: socket.AddressFamily, address: tuple) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # as the server will do: lingering connections do not block a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return None
