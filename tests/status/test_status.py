"""``python -m seamless_dask.status`` against real schedulers, and without any."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import pytest
from distributed import Scheduler, get_worker
from distributed.core import Status
from distributed.security import Security
from helpers.certificates import (
    Pair,
    configuration,
    needs_openssl,
)
from helpers.schedulers import (
    A,
    B,
    C,
    asynchronous,
    cluster,
    gate,
    pass_gate,
    until,
)
from rich.console import Console

import scheduler_ext
from scheduler_ext import messages, reports
from scheduler_ext.error_texts import with_pointer
from scheduler_ext.task_keys import base_key
from seamless_dask import status
from seamless_dask.status import view
from seamless_dask.status.address import NotClear, NotFound, resolve

D = "d" * 64


@pytest.mark.slow
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\1" * 9])
def test_a_server_that_is_not_one_of_dask(answer: bytes) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def say() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(answer)
            with contextlib.suppress(ConnectionError):
                connection.recv(1)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    with server, pytest.raises(NotFound, match=address):
        status.ask(status.Question(address, "status"), timeout=1)
    thread.join(10)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for directory in ("server", "client"):
        (tmp_path / ".remote-http-launcher" / directory).mkdir(parents=True)
    return tmp_path


def write(home: Path, name: str, **fields: object) -> Path:
    path = home / ".remote-http-launcher" / f"{name}.json"
    path.write_text(json.dumps(fields))
    return path


async def command(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code and output of the command, which has an event loop of its own."""
    try:
        code = await asyncio.to_thread(status.main, arguments)
    except SystemExit as end:
        code = int(str(end.code))
    said = capsys.readouterr()
    return code, said.out, said.err


def on_paper(answer, width: int) -> list[str]:
    """What is printed on so many columns."""
    console = Console(file=io.StringIO(), width=width)
    console.print(view.status("tcp://127.0.0.1:1", answer))
    return console.file.getvalue().splitlines()


# -- which scheduler ---------------------------------------------------------------


def test_an_address_is_taken_as_it_is(home: Path) -> None:
    """With or without a protocol, names and IPv6 as well."""
    assert resolve("tls://here:8786", home) == "tls://here:8786"
    assert resolve("localhost:8786", home) == "tcp://localhost:8786"
    assert resolve("tcp://[::1]:8786", home) == "tcp://[::1]:8786"


def test_status_files_name_schedulers(home: Path) -> None:
    """By path or by name, of the wrapper and of the launcher."""
    path = write(
        home,
        "server/daskserver-here",
        status="running",
        port=1234,
        network_interface="10.0.0.1",
        pid=1,
    )
    write(home, "client/daskserver-there", hostname="localhost", port=99)
    assert resolve(str(path), home) == "tcp://10.0.0.1:1234"
    assert resolve("daskserver-here", home) == "tcp://10.0.0.1:1234"
    assert resolve("daskserver-there.json", home) == "tcp://localhost:99"
    with pytest.raises(NotClear, match="2 clusters run.*daskserver-here, daskserver-t"):
        resolve(None, home)


def test_the_only_one_that_runs_is_found(home: Path) -> None:
    """Other services, and what has failed or only starts, do not count."""
    with pytest.raises(NotFound, match="No cluster runs"):
        resolve(None, home)
    write(home, "server/hashserver-x", status="running", port=1)
    write(home, "server/daskserver-a", status="failed", error="no such partition")
    with pytest.raises(NotFound, match="has failed: no such partition"):
        resolve(None, home)
    write(home, "server/daskserver-b", status="starting")
    with pytest.raises(NotFound, match="does not run yet: it is 'starting'"):
        resolve(str(home / ".remote-http-launcher/server/daskserver-b.json"), home)
    running = {"status": "running", "port": 5, "network_interface": "::1"}
    write(home, "server/pure-daskserver-c", **running)
    write(home, "client/pure-daskserver-c", hostname="elsewhere", port=5)
    assert resolve(None, home) == "tcp://[::1]:5"


def test_what_is_no_status_file(home: Path) -> None:
    """One sentence that names the file."""
    path = write(home, "server/daskserver-a", status="running")
    with pytest.raises(NotFound, match="names no scheduler: port is None"):
        resolve(str(path), home)
    path.write_text("{")
    with pytest.raises(NotFound, match="daskserver-a.json is not valid JSON"):
        resolve(str(path), home)
    for what in ("nothing", "x" * 5000, "nul\0"):
        with pytest.raises(NotFound, match="is no address such as"):
            resolve(what, home)
    with pytest.raises(NotFound, match="got port 65536, allowed: 1 to 65535"):
        resolve("localhost:65536", home)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["stauts"], "status"),
        (["reprot"], "report"),
        (["status", "reprot"], "report"),
        (["Failure", "--json"], "failures"),
        (["tcp://127.0.0.1:1", "reprot"], "report"),
        (["ouput", "name"], "output"),
        (["tcp://127.0.0.1:1", "ouput", "name"], "output"),
        (["daskserver-hree"], "daskserver-here"),
        (["nothing"], None),
        (["tcp://127.0.0.1:1", "why", "why", "why"], None),
    ],
)
def test_a_misspelt_word_is_recognized(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    meant: str | None,
) -> None:
    """A subcommand, in the place of an address as well, or the name of a status file."""
    monkeypatch.setenv("HOME", str(home))
    write(home, "server/daskserver-here", status="running", port=1)
    try:
        code = status.main(words)
    except SystemExit as end:
        code = int(str(end.code))
    errors = capsys.readouterr().err
    assert code in (1, 2)
    asked = [] if meant is None else [meant]
    assert re.findall(r"\(did you mean (\S+)\?\)", errors) == asked


# -- what it shows -----------------------------------------------------------------


@pytest.mark.cluster
@asynchronous
async def test_the_whole_cluster(capsys) -> None:
    """Slots, workers, transformations, decisions, and first of all what is wrong."""
    async with cluster(start_timeout=1e6) as c:
        client = await c.client()
        alpha = await c.worker(name="alpha", memory_limit=0)
        beta = await c.worker(name="beta", memory_limit="1 MiB")  # Dask pauses it
        await c.register(alpha)
        called = client.submit(pass_gate, "x", key=f"base-{A}", workers=["alpha"])
        future = client.submit(pass_gate, called, key=f"base-{B}")
        await until(lambda: c.state(future.key) == "waiting")
        await until(lambda: c.state(called.key) == "processing")
        await c.request(alpha, f"base-{C}", f"base-{D}", owner=called.key, depth=1)
        await until(lambda: c.scheduler.workers[beta.address].status == Status.paused)
        c.plugin.scaling.decided(1, 4, "much work", time.time() - 60)
        c.plugin.scaling.update(
            jobs={"pending": 3, "connected": 0},
            submission_error={
                "time": 0.0,
                "message": "sbatch: [invalid] partition",
                "retry_at": None,
                "failures": 2,
            },
            excluded_nodes={"n7": {"until": 60.0, "reason": "3 jobs died there"}},
        )
        code, text, errors = await command(capsys, c.scheduler.address)
        assert (code, errors) == (0, "")
        for expected in (
            "2 workers, 1 paused, 4 wanted",
            "! 1 worker is paused: memory limit reached; ask for more memory",
            "! 2 submissions in a row failed",
            "sbatch: [invalid] partition",
            "! node n7 gets no jobs until",
            "3 pending",
            "1 of 1 in use, 1 lent",
            "Transformations that wait: 3",
            "waits for 1 input: unnamed aaaa",
            "waits for 2 calls",
            "1 -> 4",
        ):
            assert expected in text, expected
        assert "\x1b" not in text, "no colours in pipes"
        rows = [line.split() for line in text.splitlines()]
        assert ["alpha", "running", "1", "1", "0", "1", "1", "0", "0", "%"] in [
            row[:10] for row in rows
        ]
        assert ["beta", "paused", "-", "2"] in [row[:4] for row in rows]

        code, text, _ = await command(capsys, c.scheduler.address, "--json")
        answer = json.loads(text)
        assert code == 0
        assert answer["workers"][1]["status"] == "paused"
        for width in (40, 80, 200):
            lines = on_paper(answer, width)
            assert max(map(len, lines)) <= width
            said = "".join("".join(lines).split())
            assert "memorylimitreached" in said and "alpha" in said

        code, text, _ = await command(capsys, c.scheduler.address, "why", B[:8].upper())
        assert code == 0
        chain = [line.split()[:5] for line in text.splitlines()]
        assert text.startswith(f"unnamed {B}\ndependency: waits for 1 input")
        assert ["1", "unnamed", A[:12], "alpha", "calling"] in chain
        assert ["2", "unnamed", "×2", C[:12], "submission"] in chain
        gate("x").set()
        await future
        code, text, _ = await command(capsys, c.scheduler.address, "why", B)
        assert (code, "ended: finished" in text) == (0, True)
        code, text, _ = await command(capsys, c.scheduler.address, "why", "123456")
        assert (code, "unknown: the scheduler has no task" in text) == (1, True)


@pytest.mark.cluster
@asynchronous
async def test_failures_and_names(capsys) -> None:
    """Which transformation failed, how, and where the others of its function are."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(name="alpha")
        await c.register(worker, throttle=4)
        client._send_to_scheduler(messages.function(A, "score"))
        client._send_to_scheduler(messages.function(B, "dock"))
        outer, inner = base_key(B, {}, code=B), base_key(C, {}, code=A)
        await c.request(worker, outer)
        await c.request(worker, inner, owner=outer, depth=2)
        await c.request(worker, base_key(D, {}, code=A), owner=outer, depth=2)
        error = with_pointer("Traceback\n[red]x\nValueError: \x1b[31mbad\n", "score", C)
        await client.submit(fails_with, error, inner, key=inner)

        async def shows(*arguments: str) -> str:
            code, text, errors = await command(capsys, c.scheduler.address, *arguments)
            assert (code, errors) == (0, "")
            assert "\x1b" not in text
            return text

        text = await shows()
        assert "Failed transformations: 1" in text
        assert f"score < dock {C[:12]}" in text and "ValueError: [31mbad" in text
        text = await shows("failures")
        assert f"score < dock {C[:12]} failed on alpha at " in text
        assert "\n  [red]x\n  ValueError: ?[31mbad [transformation score" in text
        assert text.endswith("1 transformation failed: 1 score\n")
        answer = json.loads(await shows("failures", "--json"))
        assert answer["failures"][0]["checksum"] == C
        text = await shows("why", C)
        assert text.startswith(f"score < dock {C}\nended: failed: ValueError: [31mbad;")
        assert "ValueError: ?[31mbad" in text
        text = await shows("why", "Score")
        assert text.startswith("several: 2 transformations: 1 failed, 1 unfinished")
        assert f"score < dock {D[:12]}" in text
        answer = json.loads(await shows("why", "score", "--json"))
        assert [row["checksum"] for row in answer["matches"]["rows"]] == [C, D]
        text = await shows("why", "dock")
        assert text.startswith(f"dock {B}\nsubmission: ")
        code, text, _ = await command(capsys, c.scheduler.address, "why", "other")
        assert (code, "no transformation with this name" in text) == (1, True)


def fails_with(error, key):
    """What a worker does with a transformation that fails."""
    report = reports.report("failed", 0, begun=1, resume_wait=None, error=error)
    get_worker().state.tasks[key].metadata[reports.REPORT] = report


async def watched(address: str, **environment: str) -> bytes:
    """What is written on a terminal until the state was shown three times, then Ctrl-C."""
    here, there = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "seamless_dask.status", address, "--watch", "0.1"),
        stdin=there,
        stdout=there,
        stderr=there,
        env={**os.environ, **environment},
    )
    os.close(there)
    text = b""
    try:
        while text.count(b"Seamless plugin") < 3:
            text += await asyncio.wait_for(asyncio.to_thread(os.read, here, 4096), 60)
        process.send_signal(2)
        while chunk := await asyncio.to_thread(_read, here):
            text += chunk
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        os.close(here)
    assert b"Traceback" not in text
    return text


@pytest.mark.cluster
@asynchronous
async def test_watching_until_interrupted() -> None:
    """In a terminal the picture is replaced; Ctrl-C is no error."""
    async with cluster() as c:
        text = await watched(c.scheduler.address, TERM="xterm")
        assert text.count(b"\x1b[?1049l") == 1, "the terminal is as it was"


@pytest.mark.cluster
@asynchronous
async def test_terminals_without_colours_or_cursor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NO_COLOR leaves bold text; a dumb terminal gets one picture below the other."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    async with cluster() as c:
        error = {"time": 0.0, "message": "no", "retry_at": None, "failures": 2}
        c.plugin.scaling.update(
            jobs={}, submission_error=error, excluded_nodes={}, oldest_job=0.0
        )

        async def codes(**environment: str) -> set[bytes]:
            text = await watched(c.scheduler.address, **environment)
            assert b"2 submissions in a row failed" in text
            return set(re.findall(rb"\x1b\[[0-9;?]*[a-zA-Z]", text))

        colours = re.compile(rb"\x1b\[([0-9]+;)*(3|4|9|10)[0-9](;[0-9]+)*m")
        assert any(map(colours.fullmatch, await codes(TERM="xterm")))
        plain = await codes(TERM="xterm", NO_COLOR="1")
        assert plain and not any(map(colours.fullmatch, plain))
        for terminal in ("dumb", "unknown"):
            assert await codes(TERM=terminal) == set()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


# -- what does not work ------------------------------------------------------------


@pytest.mark.cluster
@asynchronous
async def test_schedulers_that_cannot_be_asked(capsys, monkeypatch) -> None:
    """One sentence and exit code 1; no traceback."""
    monkeypatch.setattr(status, "TIMEOUT", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        code, _, errors = await command(capsys, address)
        # on a busy machine there is no time to hear of the refusal
        assert (code, errors.count("\n")) == (1, 1), errors
        assert "cannot be reached" in errors or "does not answer" in errors
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        code, _, errors = await command(capsys, address)
        assert (code, "does not answer within 1 s" in errors) == (1, True), errors
    code, _, errors = await command(capsys, "nonsense://127.0.0.1:1")
    assert (code, "unknown address scheme" in errors) == (1, True)
    monkeypatch.setattr(status, "TIMEOUT", 10.0)
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as plain:
        code, _, errors = await command(capsys, plain.address)
        assert (code, "without the Seamless plugin" in errors) == (1, True)
    async with cluster() as c:
        monkeypatch.setattr("scheduler_ext.PROTOCOL", 99)
        code, _, errors = await command(capsys, c.scheduler.address)
        assert (code, "protocol 99" in errors) == (1, True)
        assert errors.count("\n") == 1


def configured(*pair: str):
    """Dask's configuration with TLS."""
    return dask.config.set(dask.config.merge(dask.config.config, configuration(*pair)))


@needs_openssl
@pytest.mark.cluster
@asynchronous
async def test_encrypted(capsys, certificates: dict[str, Pair]) -> None:
    """With the TLS configuration that Dask has; without it there is no answer."""
    with configured(*certificates["ours"]):
        options = {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0"}
        async with Scheduler(protocol="tls", security=Security(), **options) as c:
            scheduler_ext.attach(c)
            address = c.address.removeprefix("tls://")
            code, text, errors = await command(capsys, address)
            assert (code, errors, "tls://" in text) == (0, "", True)
            with configured(*certificates["theirs"]):
                code, _, errors = await command(capsys, address)
            assert (code, errors.count("\n")) == (1, 1)
            assert "cannot be reached" in errors


@pytest.mark.cluster
@asynchronous
async def test_wrong_usage(capsys) -> None:
    """Exit code 2, with what is allowed."""
    async with cluster() as c:
        address = c.scheduler.address
        for arguments, expected in (
            ((address, "where", A), "allowed: at most one address"),
            ((address, "why"), "allowed: at most one address"),
            ((address, "--watch", "0"), "not between 0.1 and 86400"),
            ((address, "--watch", "often"), "often is not between 0.1 and 86400"),
            ((address, "why", A, B), "allowed: at most one address"),
            ((address, "failures", A), "allowed: at most one address"),
        ):
            code, _, errors = await command(capsys, *arguments)
            assert (code, expected in errors) == (2, True), errors


def test_help_tells_the_exit_codes() -> None:
    """And comes before anything heavy is loaded."""
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "seamless_dask.status", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 0
    assert "1  not found: no cluster" in said.stdout
    assert "distributed" not in said.stderr
