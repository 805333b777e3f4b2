"""Faults around running work, on real parts: what is lost is done again, once.

A workload is disturbed while it runs: a Dask worker or a driver is killed, a server is
away for a while, the connection to the scheduler breaks. What was stored before must
not be executed again, and what was announced must be stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from distributed import Client
from helpers.polling import wait_until
from helpers.stack import RealStack
from seamless import Buffer, Checksum

from scheduler_ext.activity import UNFINISHED
from seamless_dask.storage import outages
from seamless_dask.wrapper.settings.ports import free_ports

pytestmark = pytest.mark.cluster

#: outer transformations, and how many each calls, one after the other
OUTERS, LEAVES = 20, 3
#: results of a whole workload
RESULTS = OUTERS * (1 + LEAVES)
#: seconds that a leaf takes, so that a fault comes in the middle
PAUSE = 0.2

DRIVER = """
import json, sys
import seamless, seamless.config
from seamless.transformer import delayed, parallel

def outer(base, i, leaves, pause, log):
    from seamless.transformer import direct

    @direct
    def leaf(value, pause, log):
        import time

        with open(log, "a") as file:
            file.write(f"{value}\\n")
        time.sleep(pause)
        return value

    return sum(leaf(base + 10 * i + k, pause, log) for k in range(leaves))

base, outers, leaves = map(int, sys.argv[1:4])
pause, log = float(sys.argv[4]), sys.argv[5]
seamless.config.init(workdir=".")
nodes = [delayed(outer)(base, i, leaves, pause, log) for i in range(outers)]
for _finished in parallel(nodes):
    continue
errors = [node.exception for node in nodes if node.exception is not None]
values = [node.run() for node in nodes if node.exception is None]
seamless.close()
print(json.dumps({"values": values, "errors": errors}))
"""


VALUE_DRIVER = """
import asyncio, json, logging, os, sys, time
import seamless, seamless.config
from seamless.transformer import delayed
from seamless_remote import buffer_remote

def numbers(n, salt):
    return list(range(n))

async def awaited():
    return await tf.task()

how, folder = sys.argv[1:]
seamless.config.init(workdir=".")
# As on another machine than that of the hashserver.
buffer_remote._read_folders_clients.clear()
tf = delayed(numbers)(20_000, "salt")
tf.compute()
if how != "first":
    class Touch(logging.Handler):
        def emit(self, record):
            open(folder + "/warned", "w").close()

    logging.getLogger("seamless_dask.storage.outages").addHandler(Touch())
    open(folder + "/computed", "w").close()
    while not os.path.exists(folder + "/go"):
        time.sleep(0.02)
def local():
    make = delayed(numbers)
    make.local = True
    return make(20_000, "local").run()

ways = {
    "run": tf.run,
    "value": lambda: tf.value,
    "task": lambda: asyncio.run(awaited()),
    "first": tf.run,
    "local": local,
}
value = ways[how]()
seamless.close()
print(json.dumps(value == list(range(20_000))))
"""


AGAIN_DRIVER = """
import json, sys
import seamless, seamless.config
from seamless.transformer import direct

@direct
def outer(path):
    import os, time
    from seamless.transformer import direct

    @direct
    def leaf(n):
        return list(range(n))

    def passed(name):
        open(f"{path}/{name}", "w").close()

    first = leaf(5)
    passed("first")
    while not os.path.exists(f"{path}/away"):
        time.sleep(0.02)
    second = leaf(5)
    passed("second")
    return [first, second]

seamless.config.init(workdir=".")
value = outer(sys.argv[1])
seamless.close()
print(json.dumps(value))
"""


class Workload:
    """Nested transformations that take some seconds and log each execution."""

    def __init__(self, stack: RealStack, outers: int = OUTERS) -> None:
        self.stack = stack
        self.outers = outers
        #: in each value, so that no other workload has the same transformations
        self.base = random.randrange(10**6, 10**9) * 1000
        self._log = stack.home / f"executions-{self.base}"
        self._log.touch()
        self._before = set(stack.stored().results)
        self.driver = self.start()

    def start(self) -> subprocess.Popen[str]:
        script = self.stack.project_dir / "outages.py"
        script.write_text(DRIVER)
        arguments = (self.base, self.outers, LEAVES, PAUSE, self._log)
        return self.stack.start(script, *arguments)

    def results(self) -> dict[str, str]:
        """Transformation -> result, of what has been stored for it so far."""
        return {
            checksum: result
            for checksum, result in self.stack.stored().results.items()
            if checksum not in self._before
        }

    def wait_for_results(self, number: int) -> None:
        wait_until(lambda: len(self.results()) >= number, f"{number} results")

    def stored_leaves(self) -> set[int]:
        """The values of leaves whose result is in the database."""
        stored = set(self.results().values())
        leaves = (
            self.base + 10 * i + k for i in range(self.outers) for k in range(LEAVES)
        )
        return {
            value
            for value in leaves
            if Buffer(value, "mixed").get_checksum().hex() in stored
        }

    def executions(self) -> Counter[int]:
        """How often each leaf was executed."""
        return Counter(map(int, self._log.read_text().split()))

    def finish(self) -> None:
        """Every value is right, and everything is stored, buffers included."""
        begin = time.monotonic()
        outcome = self.stack.finish(self.driver, begin=begin, timeout=150).value
        below = sum(range(LEAVES))
        assert outcome["errors"] == []
        assert outcome["values"] == [
            LEAVES * (self.base + 10 * i) + below for i in range(self.outers)
        ]
        results = self.results()
        assert len(results) == self.outers * (1 + LEAVES)
        assert all(map(self.stack.has_buffer, results.values()))


@pytest.fixture(scope="module")
def stack() -> Iterator[RealStack]:
    """One for all: what a fault has left behind would disturb the next test."""
    with RealStack() as stack:
        Workload(stack, outers=1).finish()
        yield stack


@contextlib.contextmanager
def scheduler(stack: RealStack) -> Iterator[Client]:
    client = Client(stack.scheduler_address(), set_as_default=False)
    try:
        yield client
    finally:
        client.close()


def service(stack: RealStack, kind: str) -> tuple[Path, dict[str, Any]]:
    """The status file of a service, and its content."""
    folder = stack.home / ".remote-http-launcher" / "server"
    (path,) = folder.glob(f"{kind}-*.json")
    return path, json.loads(path.read_text())


def kill(stack: RealStack, kind: str) -> list[str]:
    """Kill a server; return the command by which it comes back on its port."""
    path, status = service(stack, kind)
    process = psutil.Process(status["pid"])
    command = process.cmdline()
    process.kill()
    process.wait(10)
    if "--port-range" in command:  # not if it has come back before
        at = command.index("--port-range")
        command[at : at + 3] = ["--port", str(status["port"])]
        at = command.index("--status-file")
        del command[at : at + 2]
    return command


def start_again(stack: RealStack, kind: str, command: list[str]) -> None:
    """Start a server; the stack will end it as if the launcher had started it."""
    path, status = service(stack, kind)
    with (stack.home / f"{kind}-again.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=stack.home,
            env=stack.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    path.write_text(json.dumps({**status, "pid": process.pid}))


def is_idle(stack: RealStack) -> bool:
    """Whether the scheduler has no task under way, and no lease."""
    status = stack.scheduler_status()
    leases, tasks = status["permissions"], status["activity"]
    return not any(
        (
            *(leases[name] for name in ("slots_in_use", "admitted", "waiting")),
            *(tasks[name] for name in UNFINISHED.values()),
        )
    )


def test_a_killed_dask_worker(stack: RealStack) -> None:
    """All its work is done on its successor; stored leaves are not executed again."""
    workload = Workload(stack)
    workload.wait_for_results(RESULTS // 3)
    with scheduler(stack) as client:
        (pid,) = client.run(os.getpid).values()
    psutil.Process(pid).kill()
    stored, executed = workload.stored_leaves(), workload.executions()
    assert len(stored) > OUTERS // 3
    workload.finish()
    again = workload.executions()
    assert {value: again[value] for value in stored} == {
        value: executed[value] for value in stored
    }


def test_a_killed_driver(stack: RealStack) -> None:
    """Its leases and tasks end; another driver finds what was stored."""
    workload = Workload(stack)
    workload.wait_for_results(RESULTS // 3)
    workload.driver.kill()
    workload.driver.communicate()
    wait_until(lambda: is_idle(stack), "the end of the driver's work", 30)
    stored, executed = workload.stored_leaves(), workload.executions()
    workload.driver = workload.start()
    workload.finish()
    again = workload.executions()
    assert {value: again[value] for value in stored} == {
        value: executed[value] for value in stored
    }


@pytest.mark.parametrize("kind", ["hashserver", "database"])
def test_a_server_that_another_driver_starts_again(stack: RealStack, kind: str) -> None:
    """At another address: the workers learn it, and go on with what they executed."""
    other: dict[str, Any] = {
        "name": "independent",
        "n": 3,
        "salt": f"with {kind}",
        "timeout": 90,
    }
    stack.run_workload(**other)
    workload = Workload(stack)
    workload.wait_for_results(RESULTS // 3)
    _, status = service(stack, kind)
    process = psutil.Process(status["pid"])
    process.kill()
    process.wait(10)
    assert stack.run_workload(**other).outcome["values_ok"]
    workload.finish()


@pytest.mark.parametrize("kind", ["hashserver", "database"])
def test_a_server_that_is_away(stack: RealStack, kind: str) -> None:
    """Work waits for it, says so once per process, and completes."""
    workload = Workload(stack)
    workload.wait_for_results(RESULTS // 3)
    warning = f"The {kind} at http://"

    def warnings() -> int:
        return sum(
            warning in line and "does not answer" in line
            for line in stack.logs(10_000).splitlines()
        )

    before = warnings()
    command = kill(stack, kind)
    try:
        wait_until(lambda: warnings() > before, "a warning in the worker's log", 30)
    finally:
        start_again(stack, kind, command)
    workload.finish()
    assert warnings() == before + 1


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("run", "hashserver"),
        ("value", "hashserver"),
        ("task", "hashserver"),
        ("local", "database"),
    ],
)
def test_a_driver_waits_for_what_it_asks(
    stack: RealStack, tmp_path: Path, how: str, kind: str
) -> None:
    """The value of a result that the database knew; what it executes itself."""
    script = stack.project_dir / "value.py"
    script.write_text(VALUE_DRIVER)
    assert stack.run(script, "first", tmp_path, timeout=120).value
    begin = time.monotonic()
    driver = stack.start(script, how, tmp_path)
    wait_until((tmp_path / "computed").exists, "its checksum")
    command = kill(stack, kind)
    try:
        (tmp_path / "go").touch()
        wait_until((tmp_path / "warned").exists, "a warning of the driver", 30)
    finally:
        start_again(stack, kind, command)
    assert stack.finish(driver, begin=begin, timeout=60).value


def test_what_a_process_knows_needs_no_hashserver(
    stack: RealStack, tmp_path: Path
) -> None:
    """A transformation calls the same again while the hashserver is away."""
    script = stack.project_dir / "again.py"
    script.write_text(AGAIN_DRIVER)
    begin = time.monotonic()
    driver = stack.start(script, tmp_path)
    wait_until((tmp_path / "first").exists, "the first call")
    command = kill(stack, "hashserver")
    try:
        (tmp_path / "away").touch()
        wait_until((tmp_path / "second").exists, "the second call", 30)
    finally:
        start_again(stack, "hashserver", command)
    value = stack.finish(driver, begin=begin, timeout=60).value
    assert value == [list(range(5))] * 2


def test_the_connection_to_the_scheduler_breaks(stack: RealStack) -> None:
    """The driver's client connects again and submits what it waits for again."""
    workload = Workload(stack)
    workload.wait_for_results(RESULTS // 3)

    def cut(dask_scheduler: Any, spared: str) -> list[str]:
        drivers = [
            name
            for name in dask_scheduler.client_comms
            if name != spared and "seamless-worker" not in name
        ]
        for name in drivers:
            dask_scheduler.client_comms[name].comm.abort()
        return drivers

    with scheduler(stack) as client:
        assert len(client.run_on_scheduler(cut, spared=client.id)) == 1
    workload.finish()


def database(port: int, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            str(Path(sys.executable).with_name("seamless-database")),
            *("--host", "127.0.0.1", "--port", str(port), "--writable"),
            str(folder / "seamless.db"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def database_service(port: int) -> tuple[outages.Service, Any]:
    from seamless_remote.database_client import DatabaseClient

    client = DatabaseClient(readonly=False)
    client.url = f"http://127.0.0.1:{port}"
    return outages.Service("database", lambda: [client]), client


def test_many_requests_wait_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them are answered once the server is there."""
    (port,) = free_ports("127.0.0.1", 28000, 31999, 1)
    service, client = database_service(port)

    async def ask() -> list[Checksum | None]:
        checksum = Checksum("1" * 64)
        asked = [
            asyncio.create_task(
                service.call(lambda: client.get_transformation_result(checksum))
            )
            for _ in range(50)
        ]
        while not caplog.records:
            await asyncio.sleep(0.01)
        processes.append(database(port, tmp_path))
        return await asyncio.gather(*asked)

    processes: list[subprocess.Popen[bytes]] = []
    try:
        with caplog.at_level(logging.WARNING, logger="seamless_dask.storage.outages"):
            assert asyncio.run(ask()) == [None] * 50
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert len(caplog.records) == 1
    assert f"http://127.0.0.1:{port}" in caplog.text


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the service, its address, and how long we waited."""
    monkeypatch.setattr(outages, "PATIENCE", 0.5)
    (port,) = free_ports("127.0.0.1", 28000, 31999, 1)
    service, client = database_service(port)
    checksum = Checksum("1" * 64)
    begin = time.monotonic()
    with pytest.raises(outages.ServiceUnavailable) as caught:
        asyncio.run(service.call(lambda: client.get_transformation_result(checksum)))
    assert 0.5 <= time.monotonic() - begin < 10
    text = f"The database at http://127.0.0.1:{port} did not answer for "
    assert str(caught.value).startswith(text)


class Failing(BaseHTTPRequestHandler):
    """A server that answers everything with an error of its own, until it is told."""

    status: int | None = 500
    text = "the disk is full\n" + 1000 * "x"

    def do_GET(self) -> None:
        """Answer; see `http.server`."""
        body = (self.text if self.status else "[11]").encode()
        self.send_response(self.status or 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_GET

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing on stderr."""


@contextlib.contextmanager
def failing_server(status: int, text: str) -> Iterator[tuple[str, Any]]:
    handler = type("Handler", (Failing,), {"status": status, "text": text})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
            thread.join()


def asked_of(kind: str, url: str) -> tuple[outages.Service, Any]:
    """Return a service, and a request to it."""
    from seamless_remote.buffer_client import BufferClient
    from seamless_remote.database_client import DatabaseClient

    client: Any = (BufferClient if kind == "hashserver" else DatabaseClient)(
        readonly=False
    )
    client.url = url
    checksum = Checksum("1" * 64)
    requests = {
        "hashserver": lambda: client.buffer_length(checksum),
        "database": lambda: client.get_transformation_result(checksum),
    }
    return outages.Service(kind, lambda: [client]), requests[kind]


@pytest.mark.parametrize("kind", ["hashserver", "database"])
@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (
            500,
            "the disk is\n full " + 1000 * "x",
            "HTTP status 500, the disk is full x",
        ),
        (503, "", "HTTP status 503, without a text"),
    ],
)
def test_a_server_that_answers_with_errors(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    status: int,
    text: str,
    said: str,
) -> None:
    """The warning and the error tell what it said, and not that it is silent."""
    monkeypatch.setattr(outages, "PATIENCE", 0.5)
    with (
        failing_server(status, text) as (url, _),
        caplog.at_level(logging.WARNING, logger="seamless_dask.storage.outages"),
        pytest.raises(outages.ServiceUnavailable) as caught,
    ):
        service, request = asked_of(kind, url)
        asyncio.run(service.call(request))
    assert str(caught.value).startswith(
        f"The {kind} at {url} answered with errors for "
    )
    of_ours = [r for r in caplog.records if r.name == "seamless_dask.storage.outages"]
    (warning,) = (record.getMessage() for record in of_ours)
    assert warning.startswith(
        f"The {kind} at {url} answers with errors, waiting up to "
    )
    for message in (str(caught.value), warning):
        assert said in message
        assert "not answer" not in message
        assert "\n" not in message
        assert len(message) < 500


def test_a_server_that_gets_well(caplog: pytest.LogCaptureFixture) -> None:
    """What has waited for it is answered."""
    with (
        failing_server(500, "starting") as (url, handler),
        caplog.at_level(logging.INFO, logger="seamless_dask.storage.outages"),
    ):
        service, request = asked_of("hashserver", url)

        async def ask() -> Any:
            asked = asyncio.create_task(service.call(request))
            while not caplog.records:
                await asyncio.sleep(0.01)
            handler.status = None
            return await asked

        assert asyncio.run(ask())
    assert f"The hashserver at {url} answers with errors" in caplog.text
    assert f"The hashserver at {url} is back after" in caplog.text


def test_a_request_that_times_out_although_the_server_is_healthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It fails at some time, also if each try takes longer than the patience."""
    monkeypatch.setattr(outages, "PATIENCE", 0.05)

    async def healthcheck() -> None:
        """It answers."""

    async def request() -> None:
        await asyncio.sleep(0.1)
        raise asyncio.TimeoutError

    client = SimpleNamespace(
        url="http://there", directory=None, healthcheck=healthcheck
    )
    service = outages.Service("database", lambda: [client])
    with pytest.raises(outages.ServiceUnavailable, match="database at http://there"):
        asyncio.run(asyncio.wait_for(service.call(request), 60))


def test_a_refusal_is_no_outage(tmp_path: Path) -> None:
    """What the server says no to is not asked for a minute."""
    (port,) = free_ports("127.0.0.1", 28000, 31999, 1)
    service, client = database_service(port)
    process = database(port, tmp_path)
    checksum = Checksum("1" * 64)
    try:
        asyncio.run(service.call(lambda: client.get_transformation_result(checksum)))
        with pytest.raises(Exception, match="Error 4") as caught:
            bad = service.call(
                lambda: client.set_execution_record(checksum, checksum, {})
            )
            asyncio.run(bad)
    finally:
        process.kill()
        process.wait()
    assert not isinstance(caught.value, outages.ServiceUnavailable)
