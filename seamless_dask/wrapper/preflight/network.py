"""Looks at addresses and ports of the services, without listening for long."""

from __future__ import annotations

import ipaddress
import os
import shlex
import socket
import urllib.request
from collections.abc import Sequence
from typing import Any

import psutil

from ..clusters_file import Service
from ..exit_codes import ExitCode, NoFreePort
from ..settings.ports import local_addresses, taken_ports
from .findings import Findings

Addresses = list[tuple[socket.AddressFamily, tuple]]
#: Ports that are named when they are in use.
_NAMED = 8


def is_this_machine(hostname: str) -> bool:
    """Whether a name or an address is one of this machine."""
    try:
        return bool(local_addresses(hostname))
    except NoFreePort:
        return False


def look_at_network(
    findings: Findings, services: tuple[Service, ...], *, batch: bool
) -> None:
    """Check that each service can listen, and where others would look for it."""
    found = {
        interface: _addresses(findings, _named(services, interface), str(interface))
        for interface in {service.interface: None for service in services}
        if interface is not None
    }
    for interface, addresses in found.items():
        if addresses and batch:
            _look_at_reach(findings, _named(services, interface), interface, addresses)
    for service in services:
        if service.ports is not None:
            _look_at_ports(findings, service, found.get(service.interface))
    _look_at_overlaps(findings, services)


def look_at_proxy(findings: Findings, hosts: Sequence[str]) -> None:
    """Whether the programs that start services would ask a proxy for these hosts.

    They ask by ``http://``, with Python's own client, which heeds the environment.
    """
    proxy = urllib.request.getproxies().get("http")
    asked = [host for host in hosts if not urllib.request.proxy_bypass(host)]
    if not proxy or not asked:
        return
    variable = next(
        name
        for name, value in os.environ.items()
        if name.lower() == "http_proxy" and value == proxy
    )
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in before.split(",") if name.strip()]
    names += [
        name
        for name in dict.fromkeys([*asked, "localhost", "127.0.0.1"])
        if name not in names
    ]
    loopback = any(host == "localhost" or host.startswith("127.") for host in asked)
    # a proxy may pass on requests to other hosts
    problem = findings.problem if loopback else findings.warnings.append
    problem(
        # without a password
        f"{variable} = {proxy.rpartition('@')[2]!r}: requests to {', '.join(asked)} would "
        "go to this proxy, so services would seem not to start (rhl-handshake failed); "
        f"allowed is a no_proxy with them: export no_proxy={shlex.quote(','.join(names))}"
    )


def _named(services: tuple[Service, ...], interface: Any) -> str:
    """The field of all services that have this address, and the value."""
    names = [service.name for service in services if service.interface == interface]
    return f"network_interface = {interface!r} ({', '.join(names)})"


def _addresses(findings: Findings, field: str, interface: str) -> Addresses:
    try:
        return local_addresses(interface)
    except NoFreePort as error:
        reason = str(error).partition(" of --host ")[2].rstrip(".")
        findings.problem(
            f"{field}: {reason}; allowed is a name or an address of this machine: "
            f"{_others(set())}",
            ExitCode.NO_FREE_PORT,
        )
        return []


def _look_at_reach(
    findings: Findings, field: str, interface: Any, addresses: Addresses
) -> None:
    """Whether jobs on other machines can get there, as far as it can be known here."""
    hosts = {str(address[0]) for _, address in addresses}
    shown = ", ".join(sorted(hosts))
    parsed = [ipaddress.ip_address(host.partition("%")[0]) for host in hosts]
    if any(address.is_unspecified for address in parsed):
        return
    if all(address.is_loopback for address in parsed):
        means = "is the loopback"
        if str(interface) not in hosts:
            means = f"means the loopback {shown}"
        findings.warnings.append(
            f"{field}: {means}, which jobs on other machines cannot reach; allowed is an "
            f"address that compute nodes reach: {_others(hosts)}"
        )
        return
    others = _others(hosts)
    findings.facts.append(
        f"{field}: {shown} on this machine, which compute nodes must reach"
        + (f"; it also has {others}" if others != _NONE else "")
    )


_NONE = "it has no other"


def _others(hosts: set[str]) -> str:
    """Addresses of this machine, with their interfaces, except some and the loopback."""
    found = []
    for interface, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if each.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(each.address.partition("%")[0])
            if address.is_loopback or address.is_link_local or each.address in hosts:
                continue
            found.append(f"{each.address} ({interface})")
    return ", ".join(found) or _NONE


def _look_at_ports(
    findings: Findings,
    service: Service,
    addresses: Addresses | None,
) -> None:
    assert service.ports is not None
    field = (
        f"{service.name}.port_start, port_end = {service.ports[0]}, {service.ports[1]}"
    )
    numbers = [
        port for port in service.ports if isinstance(port, int) and 1 <= port <= 65535
    ]
    if len(numbers) < 2 or numbers[0] > numbers[1]:
        findings.problem(
            f"{field}: allowed is two numbers from 1 to 65535, the smaller one first",
            ExitCode.NO_FREE_PORT,
        )
        return
    if addresses is not None and not addresses:  # said already
        return
    start, end = numbers
    host = "0.0.0.0" if addresses is None else str(service.interface)
    taken = taken_ports(host, start, end)
    needed = 2 if service.name == "daskserver" else 1
    free = end - start + 1 - len(taken)
    named = ", ".join(map(str, taken[:_NAMED]))
    if len(taken) > _NAMED:
        named += ", ..."
    if free < needed:
        used = f" ({named} in use)" if taken else ""
        findings.problem(
            f"{field}: {free} free{used}, but {needed} needed; allowed is a range with "
            "free ports",
            ExitCode.NO_FREE_PORT,
        )
    elif taken:
        findings.facts.append(
            f"{field}: {len(taken)} in use ({named}), {free} free, {needed} needed"
        )


def _look_at_overlaps(findings: Findings, services: tuple[Service, ...]) -> None:
    ranges = [
        (service.name, *service.ports)
        for service in services
        if service.ports is not None
        and all(isinstance(port, int) for port in service.ports)
    ]
    for index, (name, start, end) in enumerate(ranges):
        for other, first, last in ranges[index + 1 :]:
            if start <= last and first <= end:
                findings.warnings.append(
                    f"{name}.port_start, port_end = {start}, {end}: overlaps the ports of "
                    f"the {other}, {first} to {last}; they may take each other's"
                )
