"""Permissions as seamless-transformer asks for them, against a real cluster.

The cluster is a dummy scheduler in this process with one Dask worker, one Seamless
process and its three slots. Nobody runs transformations: leases alone fill it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from distributed import Client
from helpers.polling import wait_until
from seamless.transformer import delayed

from seamless_dask import (
    SeamlessDaskClient,
    create_dummy_client,
    get_dummy_scheduler_address,
    permissions,
    set_seamless_dask_client,
)
from seamless_dask.cluster.scheduler import rpc

pytestmark = pytest.mark.cluster

SLOTS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[SeamlessDaskClient]:
    """A cluster with three slots."""
    client = create_dummy_client(worker_threads=SLOTS, spawn_workers=1)
    yield client
    set_seamless_dask_client(None)


def counters(client: SeamlessDaskClient) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        answer: dict[str, Any] = await rpc(client.client).seamless_status()
        return answer

    state: dict[str, Any] = client.start(ask()).result(30)["permissions"]
    return state


@pytest.fixture
def full(cluster: SeamlessDaskClient) -> Iterator[SeamlessDaskClient]:
    """All slots are taken, by this process; afterwards they are given back."""
    wait_until(lambda: counters(cluster)["capacity"] == SLOTS, "the worker registers")
    for _ in range(SLOTS):
        assert permissions.try_request_permission()
    yield cluster
    while permissions._leases:
        permissions.release_permission()
    wait_until(lambda: counters(cluster)["admitted"] == 0, "all leases end")


def test_granted_below_capacity_denied_at_capacity(full: SeamlessDaskClient) -> None:
    """A denial is quick, and changes nothing."""
    assert counters(full)["slots_in_use"] == SLOTS
    begin = time.monotonic()
    assert not permissions.try_request_permission()
    assert time.monotonic() - begin < 5
    assert counters(full)["slots_in_use"] == SLOTS
    assert len(permissions._leases) == SLOTS


def test_a_released_permission_can_be_had_again(full: SeamlessDaskClient) -> None:
    """Releasing does not wait for the scheduler; the slot is free soon."""
    permissions.release_permission()
    wait_until(permissions.try_request_permission, "the slot is granted again", 10)
    assert not permissions.try_request_permission()


def test_somebody_who_waits_is_next(full: SeamlessDaskClient) -> None:
    """`request_permission` gets the slot that is released meanwhile."""
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(permissions.request_permission, 30)
        wait_until(lambda: counters(full)["waiting"] == 1, "the request waits")
        permissions.release_permission()
        assert waiting.result(30)
    assert not permissions.request_permission(timeout=0.1)
    assert counters(full)["waiting"] == 0


def test_one_release_too_many_changes_nothing(cluster: SeamlessDaskClient) -> None:
    """Whoever releases without having asked takes nothing from others."""
    before = counters(cluster)
    for _ in range(5):
        permissions.release_permission()
    assert permissions.try_request_permission()
    permissions.release_permission()
    after = wait_until(
        lambda: (state := counters(cluster))["admitted"] == 0 and state,
        "it is released",
    )
    assert after["unknown_releases_total"] == before["unknown_releases_total"]


def test_permissions_end_with_the_client(full: SeamlessDaskClient) -> None:
    """Another client of this process takes a slot and goes."""
    permissions.release_permission()
    wait_until(lambda: counters(full)["slots_in_use"] == SLOTS - 1, "the release")
    address = get_dummy_scheduler_address()
    with Client(address, set_as_default=False) as dask_client:
        other = SeamlessDaskClient(dask_client, role="driver")
        # `set_seamless_dask_client` would close the cluster that the first one owns.
        full._on_detach, on_detach = None, full._on_detach
        set_seamless_dask_client(other)
        try:
            wait_until(permissions.try_request_permission, "the other takes the slot")
        finally:
            set_seamless_dask_client(full)
            full._on_detach = on_detach
        assert counters(full)["slots_in_use"] == SLOTS
    permissions._leases.pop()
    wait_until(lambda: counters(full)["slots_in_use"] == SLOTS - 1, "its lease ends")
    wait_until(permissions.try_request_permission, "the slot is free")


def test_permissions_end_with_the_process(full: SeamlessDaskClient) -> None:
    """A process that is killed gives nothing back; the scheduler notices."""
    permissions.release_permission()
    wait_until(lambda: counters(full)["slots_in_use"] == SLOTS - 1, "the release")
    script = f"""
import sys
from distributed import Client
from seamless_dask import SeamlessDaskClient, permissions, set_seamless_dask_client
client = Client({get_dummy_scheduler_address()!r}, set_as_default=False)
set_seamless_dask_client(SeamlessDaskClient(client))
print(permissions.try_request_permission(), flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert not permissions.try_request_permission()
    finally:
        process.kill()
        process.communicate()
    wait_until(permissions.try_request_permission, "the slot is free again", 30)


def test_shutdown_is_harmless_in_many_threads(full: SeamlessDaskClient) -> None:
    """It is called for each Transformation that is collected, wherever that happens."""
    stop = threading.Event()

    def shut_down() -> None:
        while not stop.is_set():
            permissions.shutdown_permission_manager()

    def square(i):
        return i * i

    shutting = [threading.Thread(target=shut_down) for _ in range(8)]
    for thread in shutting:
        thread.start()
    try:
        for i in range(5):
            delayed(square)(i)  # collected at once
        permissions.shutdown_permission_manager()
        assert counters(full)["slots_in_use"] == SLOTS
        permissions.release_permission()
        wait_until(permissions.try_request_permission, "permissions still work", 30)
        assert delayed(square)(9).run() == 81
    finally:
        stop.set()
        for thread in shutting:
            thread.join()


def test_without_a_scheduler_permission_is_denied() -> None:
    """In time, and with a warning that says why; releasing then is harmless."""
    script = """
import logging, os, signal, subprocess, sys, time
logging.basicConfig(format="%(levelname)s %(message)s")
from distributed import Client
from seamless_dask import SeamlessDaskClient, permissions, set_seamless_dask_client
command = [sys.executable, "-m", "seamless_dask.dummy_scheduler"]
served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
address = served.stdout.readline().split()[-1]
client = SeamlessDaskClient(Client(address, set_as_default=False))
set_seamless_dask_client(client)
permissions.configure(rpc_timeout=1)
how = signal.SIGSTOP if sys.argv[1] == "stopped" else signal.SIGKILL
served.send_signal(how)
if how == signal.SIGKILL:
    served.wait()
begin = time.monotonic()
print(permissions.try_request_permission(), time.monotonic() - begin < 4)
permissions.release_permission()
served.kill()
os._exit(0)
"""
    for how in ("stopped", "killed"):
        done = subprocess.run(
            [sys.executable, "-c", script, how],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == "False True\n", done.stderr[-2000:]
        warning = "WARNING Permission denied: the scheduler does not answer"
        assert warning in done.stderr, done.stderr[-2000:]


def test_without_a_client_everything_is_permitted() -> None:
    """There is no cluster to protect, and none to give anything back to."""
    script = """
from seamless_dask import permissions
assert all(permissions.try_request_permission() for _ in range(1000))
assert permissions.request_permission(timeout=1)
permissions.release_permission()
permissions.shutdown_permission_manager()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_timeouts_are_checked(seconds: float) -> None:
    """The message says what is allowed; the setting stays as it was."""
    before = permissions._settings
    with pytest.raises(ValueError, match="rpc_timeout: got .*, allowed is more than 0"):
        permissions.configure(rpc_timeout=seconds)
    assert permissions._settings is before
