"""The report, addresses of dashboards, and the command as a part of Dask's own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.schedulers import A, B, asynchronous, cluster, fail, gate, until

from seamless_dask import status
from seamless_dask.status import web
from seamless_dask.status.address import NotFound
from seamless_dask.status.dask_command import seamless


async def command(capsys, *arguments: str) -> tuple[int, str, str]:
    """Run the command in a thread; the scheduler needs this one."""
    code = await asyncio.to_thread(status.main, arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.cluster
@asynchronous
async def test_where_the_time_went(capsys) -> None:
    """By name; the summary is what stays on the screen."""
    async with cluster() as c:
        code, text, _ = await command(capsys, c.scheduler.address, "report")
        assert code == 0 and "No transformation has ended" in text
        c.plugin._functions.learn(B, "dock")
        client = await c.client()
        await c.register(await c.worker())
        gate("x").set()
        future = client.submit(fail, "x", key=f"base_{B}-{A}", pure=False)
        await client.gather([future], errors="skip")
        await until(lambda: c.plugin.operations.failures.total)
        c.plugin.operations.beat(0.0)
        code, text, errors = await command(capsys, c.scheduler.address, "report")
        assert (code, errors) == (0, "")
        by_name = text.partition("By name")[2].splitlines()
        (row,) = (line.split() for line in by_name if line.split()[:1] == ["dock"])
        assert row[:6] == ["dock", "1", "0", "0", "1", "0"]
        assert text.index("Time spent waiting") < text.index("slots in use")
        assert text.splitlines()[-1].startswith("1 transformation ended from ")
        code, text, _ = await command(capsys, c.scheduler.address, "report", "--json")
        assert json.loads(text)["names"][0]["name"] == "dock"


@pytest.mark.cluster
@asynchronous
async def test_the_summary_comes_last(capsys) -> None:
    """And problems at the very end: a terminal shows the end of what is printed."""
    async with cluster() as c:
        await c.worker(name="alpha", memory_limit=0)
        error = {"time": 0.0, "message": "sbatch: no", "retry_at": None, "failures": 1}
        c.plugin.scaling.update(jobs={}, submission_error=error, excluded_nodes={})
        _, text, _ = await command(capsys, c.scheduler.address)
        lines = [line for line in text.splitlines() if line]
        assert lines[-1].startswith("! 1 submission in a row failed")
        assert text.index("Scaling decisions") < text.index(c.scheduler.address)
        answer = json.loads((await command(capsys, c.scheduler.address, "--json"))[1])
        from rich.console import Console

        from seamless_dask.status import view

        console = Console(width=120)
        with console.capture() as captured:
            console.print(view.status("tcp://x:1", answer, summary_first=True))
        assert captured.get().startswith("tcp://x:1"), "a screen that is cut below"


@pytest.mark.cluster
@asynchronous
async def test_a_dashboard_answers_like_its_scheduler(capsys) -> None:
    """All questions, whichever page of it is named."""
    async with cluster() as c:
        client = await c.client()
        await c.register(await c.worker())
        future = client.submit(int, key=f"base-{A}")
        await future
        dashboard = f"http://127.0.0.1:{c.scheduler.http_server.port}"
        for page in ("", "/", "/status", "/seamless", "/seamless/failures"):
            code, text, errors = await command(capsys, dashboard + page)
            assert (code, errors) == (0, "")
            assert "1 finished" in text
        code, text, _ = await command(capsys, dashboard, "why", A[:8])
        assert (code, "ended: finished" in text) == (0, True)
        code, text, _ = await command(capsys, dashboard, "why", B)
        assert (code, "unknown: the scheduler has no task" in text) == (1, True)
        assert (await command(capsys, dashboard, "why", "no/such name?"))[0] == 1
        assert "none failed" in (await command(capsys, dashboard, "failures"))[1]
        assert (
            "1 transformation ended" in (await command(capsys, dashboard, "report"))[1]
        )
        other = client.submit(int, key=f"base-{A[:-1]}b")
        await other
        code, _, errors = await command(capsys, dashboard, "why", A[:8])
        assert code == 2 and "2 transformations begin so" in errors
        with pytest.raises(NotFound, match="does not answer 'weather'"):
            web.ask(dashboard, "weather", "", 1.0)


@pytest.fixture
def strange() -> Iterator[str]:
    """A server of something else."""

    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<h1>hello</h1>" if "state" in self.path else b"[1]")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("words", [[], ["failures"]])
def test_what_is_no_dashboard_of_ours(capsys, strange: str, words: list[str]) -> None:
    """A sentence, not a traceback."""
    assert status.main([strange, *words]) == 1
    assert "is no dashboard of a Dask scheduler with" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["http://127.0.0.1:x", "http://a b:80/seamless"])
def test_what_is_no_address_of_a_dashboard(capsys, address: str) -> None:
    """The sentence says what is wrong with it."""
    assert status.main([address]) == 1
    assert f"{address} is no address of a dashboard: " in capsys.readouterr().err


@pytest.mark.cluster
@asynchronous
async def test_the_port_of_the_scheduler_is_no_dashboard(capsys) -> None:
    """It answers, but not as a web server."""
    async with cluster() as c:
        address = c.scheduler.address.replace("tcp://", "http://")
        code, _, errors = await command(capsys, address)
        assert code == 1
        assert f"{address} is no dashboard" in errors and "tcp://host:port" in errors


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "https://[::1", "http://"])
def test_a_dashboard_that_cannot_be_reached(capsys, address: str) -> None:
    """Nobody listens, or it is no address."""
    assert status.main([address]) == 1
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1/here/", "http://h:1/here"),
        ("https://h/proxy/8787/seamless/why/abc", "https://h/proxy/8787"),
        ("http://h:1/here/status", "http://h:1/here"),
        ("http://h:1/individual-profile", "http://h:1"),
    ],
)
def test_pages_lead_to_the_dashboard(address: str, base: str) -> None:
    """Also behind a proxy."""
    assert web._base(address) == base


# -- a part of Dask's command ------------------------------------------------------


def test_dask_has_the_command() -> None:
    """Its help is that of the status command, under the name that was called."""
    run = subprocess.run(
        [Path(sys.executable).with_name("dask"), "seamless", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("usage: dask seamless ")
    assert "exit codes:" in run.stdout


@pytest.mark.parametrize("words", [["why"], ["--no-such-option"], ["status", "a", "b"]])
def test_wrong_usage_of_the_part(words: list[str]) -> None:
    """It is the status command that understands all words."""
    run = CliRunner().invoke(seamless, words)
    assert run.exit_code == 2
    assert "dask seamless: error: " in run.output


@pytest.mark.cluster
@asynchronous
async def test_all_questions_as_a_part() -> None:
    """With the address before or after, and with options."""
    async with cluster() as c:
        for words in (
            ["status", c.scheduler.address],
            [c.scheduler.address, "status"],
            [c.scheduler.address],
            [c.scheduler.address, "failures"],
            [c.scheduler.address, "report", "--json"],
        ):
            run = await asyncio.to_thread(CliRunner().invoke, seamless, words)
            assert run.exit_code == 0, run.output
        run = await asyncio.to_thread(
            CliRunner().invoke, seamless, [c.scheduler.address, "why", A]
        )
        assert run.exit_code == 1
        assert "unknown: the scheduler has no task" in run.output
