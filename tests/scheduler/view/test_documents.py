"""Answers as pages in HTML: what they show, where they lead, and what they escape."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, urljoin

import pytest
from distributed import get_worker
from distributed.worker import thread_state
from helpers.metrics import fetch, metrics_of
from helpers.schedulers import (
    A,
    B,
    C,
    D,
    asynchronous,
    cluster,
    fail,
    gate,
    pass_gate,
    until,
)

from scheduler_ext import reports

pytestmark = pytest.mark.cluster

#: A name that must not become HTML
EVIL = '<img src=x onerror="alert(1)">'


def links(page: str) -> list[str]:
    return re.findall(r'href="([^"]*)"', page)


async def follow(scheduler, here: str, page: str) -> dict[str, int]:
    """{each link of a page: the status of its answer}."""
    found = {}
    for link in links(page):
        path = urljoin(f"http://x/{here}", link).removeprefix("http://x/")
        found[link] = (await fetch(scheduler, path))[0]
    return found


@asynchronous
async def test_a_chain_has_links() -> None:
    """A waits for B, which called C; each leads to its own page, and to the JSON."""
    async with cluster() as c:
        c.plugin._functions.learn(C, EVIL)
        client = await c.client()
        worker = await c.worker(nthreads=4, name="alpha")
        await c.register(worker)
        key = {name: f"base_{C}-{name}" for name in (A, B, D)}
        called = client.submit(pass_gate, "b", key=key[B])
        future = client.submit(pass_gate, called, key=key[A])
        await until(lambda: c.state(key[A]) == "waiting")
        await until(lambda: c.state(key[B]) == "processing")
        await c.request(worker, "base-" + C, key[D], owner=key[B], depth=1)
        code, page = await fetch(c.scheduler, f"seamless/why/{A}")
        assert code == 200
        assert "<img" not in page and "&lt;img src=x" in page
        assert "What it waits for" in page and "alpha" in page
        assert {f"{A}.json", B, D} & set(links(page)) == {f"{A}.json", B}
        answers = await follow(c.scheduler, f"seamless/why/{A}", page)
        assert set(answers.values()) == {200}
        assert any(link.endswith("../seamless") for link in answers)
        code, page = await fetch(c.scheduler, f"seamless/why/{quote(EVIL, safe='')}")
        assert code == 200 and {A, B} <= set(links(page))
        gate("b").set()
        await future


@asynchronous
async def test_pages_of_what_is_not_there() -> None:
    """Unknown, and unclear; both are pages."""
    async with cluster() as c:
        code, page = await fetch(c.scheduler, f"seamless/why/{A}")
        assert code == 404 and "unknown: the scheduler has no task" in page
        code, page = await fetch(c.scheduler, "seamless/why/%3Cb%3E")
        assert code == 404 and "<b>" not in page
        client = await c.client()
        futures = [
            client.submit(pass_gate, "x", key=f"base-{'a' * 63}{n}") for n in range(2)
        ]
        await until(lambda: len(c.plugin.operations.journal.waiting) == 2)
        code, page = await fetch(c.scheduler, "seamless/why/aaaaaaa")
        assert code == 400 and "2 transformations begin so" in page
        await client.cancel(futures)


@asynchronous
async def test_failures_and_the_report_are_pages() -> None:
    """With the error, escaped, and where the time went; names from the code of users."""
    async with cluster() as c:
        c.plugin._functions.learn(D, EVIL)
        client = await c.client()
        worker = await c.worker()
        await c.register(worker)
        gate("</pre><b>").set()
        future = client.submit(fail, "</pre><b>", key=f"base_{D}-{A}", pure=False)
        await client.gather([future], errors="skip")
        await until(lambda: c.plugin.operations.failures.total)
        code, page = await fetch(c.scheduler, "seamless/failures")
        assert code == 200
        assert "</pre><b>" not in page and "<img" not in page
        assert "&lt;/pre&gt;&lt;b&gt;" in page
        answers = await follow(c.scheduler, "seamless/failures", page)
        assert set(answers.values()) == {200} and f"why/{A}" in answers
        c.plugin.operations.beat(1e9)
        code, page = await fetch(c.scheduler, "seamless/report")
        assert code == 200 and "<img" not in page and "&lt;img" in page
        assert set((await follow(c.scheduler, "seamless/report", page)).values()) == {
            200
        }
        code, text = await fetch(c.scheduler, "seamless/report.json")
        (row,) = json.loads(text)["names"]
        assert (row["name"], row["count"], row["failed"]) == (EVIL, 1, 1)
        found = await metrics_of(c.scheduler)
        assert found[f"seamless_transformation_seconds_count[{EVIL}]"] == 1


@asynchronous
async def test_a_report_of_a_worker_is_counted() -> None:
    """What it adds to the message of the end of a task; nothing of it is believed."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker()
        await c.register(worker)
        usages = [(2.5, 1.5, 10**6), "nonsense", (float("nan"), -1, None)]
        for number, usage in enumerate(usages):
            key = f"base_{D}-{number:064x}"
            told = reports.report("stored", 0, begun=1, resume_wait=0.5, usage=usage)
            await client.submit(tells, told, key=key)
        reply = await c.call.seamless_report()
        (row,) = reply["names"]
        assert (reply["status"], row["name"], row["computed"]) == (
            "ok",
            "code dddddddd",
            3,
        )
        assert (row["total"], row["longest"], row["cpu"]) == (2.5, 2.5, 1.5)
        assert (row["memory"], row["waits"]["process"]) == (10**6, 0.5)
        refused = await c.call.seamless_report(more=1)
        assert refused["status"] == "error"


def tells(told):
    """A task whose worker reports something about it."""
    task = get_worker().state.tasks[thread_state.key]
    task.metadata[reports.REPORT] = told
    return 1
