"""The operators' page while nested work runs on real workers, and in a real browser."""

from __future__ import annotations

import json
import random
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drivers import workloads
from helpers.polling import wait_until
from helpers.stack import RealStack
from selenium import webdriver

from scheduler_ext.view import figures, metrics
from seamless_dask import SeamlessDaskClient

#: seconds that a script of the page may take on a busy machine
GUARD = 120

pytestmark = pytest.mark.cluster

UNFINISHED = ("waiting", "queued", "no-worker", "processing")


def both(dask_scheduler: Any) -> dict[str, Any]:
    """What is shown and what is there, in one turn of the scheduler's event loop."""
    operations = dask_scheduler.plugins["seamless"].operations
    return {
        "state": json.loads(json.dumps(operations.state())),
        "page": figures.figures(operations).__dict__,
        "sample": operations.sample()._asdict(),
        "metrics": {
            (each.name, *each.labels.values()): each.value
            for family in metrics.SeamlessCollector(dask_scheduler).collect()
            for each in family.samples
        },
        "truth": scan(dask_scheduler),
    }


def scan(scheduler: Any) -> dict[str, Any]:
    """The same figures from all tasks and leases, without any counter."""
    tasks = {
        key: task
        for key, task in scheduler.tasks.items()
        if str(key).startswith(("base-", "base_")) and task.state in UNFINISHED
    }
    with_workers = {key for key, t in tasks.items() if t.state == "processing"}
    leases = scheduler.plugins["seamless"]._machine.ledger.leases.values()
    keys = {lease.request.key for lease in leases}
    granted = {v.request.key for v in leases if v.granted_at is not None}
    owners = {v.request.owner for v in leases}
    # these have slots, and are sent in the next turn of the event loop
    starting = set(scheduler.plugins["seamless"]._placement._starting)
    # no task and no lease tells this
    sites = scheduler.plugins["seamless"]._machine.places.sites.values()
    stores = {p.key for site in sites for p in site.places.values() if p.stores}
    workers = {
        ws.address: sum(
            task.key not in owners and task.key not in stores for task in ws.processing
        )
        for ws in scheduler.workers.values()
    }
    nested = {
        str(ws.name): Counter(t.priority[0] < 0 for t in ws.processing)
        for ws in scheduler.workers.values()
    }
    return {
        "states": dict(Counter(task.state for task in tasks.values())),
        "waiting": len(tasks) - len(with_workers) + len(keys - tasks.keys()),
        "with_workers": len(with_workers),
        "keys": tasks.keys() | keys,
        "calling": {key for key in with_workers if key in owners},
        "requests": sum(lease.granted_at is None for lease in leases),
        "in_use": len((with_workers | granted | starting) - owners - stores),
        "lent": len((with_workers | granted) & owners - stores),
        "executing": workers,
        "nested": {name: count[True] for name, count in nested.items()},
    }


def compare(seen: dict[str, Any]) -> None:
    """Everything that is shown is what is there."""
    truth, state, found = seen["truth"], seen["state"], seen["metrics"]
    permissions, activity = state["permissions"], state["activity"]
    rows = state["transformations"]
    assert rows["waiting_total"] == truth["waiting"]
    assert rows["with_workers_total"] == truth["with_workers"]
    shown = rows["waiting"] + rows["with_workers"]
    assert len(shown) == truth["waiting"] + truth["with_workers"] <= 200
    assert {row["key"] for row in shown} == truth["keys"]
    calling = {row["key"] for row in shown if row["state"] == "calling"}
    assert calling == truth["calling"]
    counts = activity["transformations"]
    assert {name.replace("-", "_"): n for name, n in truth["states"].items()} == {
        name: counts[name]
        for name in ("waiting", "queued", "no_worker", "processing")
        if counts[name]
    }
    assert permissions["waiting"] == truth["requests"]
    assert permissions["slots_in_use"] == truth["in_use"]
    assert permissions["lent"] == truth["lent"]
    executing = {row["address"]: row["executing"] for row in state["workers"]}
    assert executing == truth["executing"]
    nested = {row["name"]: row["nested"] for row in seen["page"]["workers"]}
    assert nested == truth["nested"]
    cards = {card.title: card.value for card in seen["page"]["cards"]}
    waiting, running = truth["waiting"], truth["with_workers"]
    assert cards["Transformations"] == f"{waiting} waiting, {running} running"
    assert cards["Slots"].startswith(f"{truth['in_use']} of ")
    held = permissions["held"]
    assert cards["Waiting for a slot"] == str(truth["requests"] + held)
    groups = {group.state: group for group in seen["page"]["waiting"]}
    # those that have got a slot in this turn are in no group of their own
    assert sum(int(group.title.split()[0]) for group in groups.values()) == waiting
    if "slot" in groups:
        assert int(groups["slot"].title.split()[0]) == truth["requests"] + held
    assert seen["sample"]["requests_waiting"] == truth["requests"]
    assert seen["sample"]["transformations_waiting"] == truth["waiting"]
    assert found["seamless_requests_waiting",] == truth["requests"]
    assert found["seamless_slots_in_use",] == truth["in_use"]
    assert found["seamless_transformations", "waiting"] == truth["waiting"]
    assert found["seamless_transformations", "with_worker"] == truth["with_workers"]


def test_figures_are_true_at_any_moment(dummy: SeamlessDaskClient) -> None:
    """Twenty random moments of nested work; afterwards everything has ended."""
    outcomes = []

    def work() -> None:
        outcomes.append(workloads.sleepers("truth", n=25, leaf_seconds=0.15))

    before = dummy.client.run_on_scheduler(both)["state"]["transformations"]
    thread = threading.Thread(target=work)
    thread.start()
    moments = random.Random(0)
    busy = short = 0
    for _ in range(20):
        time.sleep(moments.uniform(0.05, 0.25))
        seen = dummy.client.run_on_scheduler(both)
        compare(seen)
        busy += seen["truth"]["with_workers"] > 0
        short += seen["truth"]["requests"] > 0
    thread.join()
    assert outcomes[0]["values_ok"]
    assert busy >= 10 and short >= 5, "there was too little to see"
    seen = dummy.client.run_on_scheduler(both)
    compare(seen)
    after = seen["state"]["transformations"]
    ended = {
        name: n - before["endings_total"][name]
        for name, n in after["endings_total"].items()
    }
    assert ended == {**dict.fromkeys(ended, 0), "stored": outcomes[0]["distinct"]}


# -- in a browser ------------------------------------------------------------------

#: All text that a page shows, also that in shadow trees, which Bokeh uses
TEXT = """
const walk = (node) => {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent;
  if (["STYLE", "SCRIPT"].includes(node.tagName)) return "";
  const roots = node.shadowRoot ? [node.shadowRoot] : [];
  return [...roots, ...node.childNodes].map(walk).join(" ");
};
return walk(document.body).replace(/\\s+/g, " ");
"""
#: All elements below the page, also those in shadow trees
ALL = """
const all = (node) => [...node.querySelectorAll("*")]
  .flatMap((each) => [each, ...(each.shadowRoot ? all(each.shadowRoot) : [])]);
"""
#: A click on the first group of waiting transformations
OPEN = (
    ALL
    + 'const found = all(document).find((each) => each.matches(".group button"));'
    + "if (found) found.click(); return Boolean(found)"
)
ROWS = ALL + 'return all(document).filter((e) => e.matches(".opened tr")).length'
#: What does not fit into the window, or into its cell
CUT = (
    ALL
    + """
return all(document).filter((each) => each.matches(".card, .fact, .alarm, .group, th")
  && (each.scrollWidth > each.clientWidth + 1
      || each.getBoundingClientRect().right > window.innerWidth + 1))
  .map((each) => each.className + ": " + each.textContent);
"""
)
#: The first transformation that is linked
LINK = """
const find = (node) => node.querySelector("a[href*='why/']")
  || [...node.querySelectorAll("*")].filter((each) => each.shadowRoot)
     .map((each) => find(each.shadowRoot)).find((each) => each);
return find(document).href;
"""
SAMPLES = "return Bokeh.documents[0].get_model_by_name('history').get_length()"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium without a window, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1360,1000",
        f"user-data-dir={tmp_path}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    with webdriver.Chrome(options, service) as driver:
        driver.set_script_timeout(GUARD)
        yield driver


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as reply:
        return reply.read().decode()


def test_real_stack_in_a_browser(
    real_stack: RealStack, browser: webdriver.Chrome
) -> None:
    """Figures appear, move and come to rest; results are counted."""
    for leaves in (3, 4):  # the second time, three of four leaves are known
        run = real_stack.run_workload("fan", n=2, leaves=leaves, timeout=90)
        assert run.outcome["values_ok"]
    dashboard = dashboard_of(real_stack)
    found = fetch(f"{dashboard}/metrics")
    assert "seamless_results_stored_total 12.0" in found
    # a process that has computed a leaf itself does not even ask
    hits = re.search(r'seamless_cache_hits_total{level="nested"} (\d+)', found)
    assert hits is not None and 0 <= int(hits[1]) <= 6

    browser.get(f"{dashboard}/status")
    browser.find_element("link text", "Seamless").click()

    def shows(*texts: str) -> bool:
        shown = browser.execute_script(TEXT)
        return all(text in shown for text in texts)

    idle = ("12 stored", "Waiting transformations: none", "No work; ", "; ends in ")
    wait_until(lambda: shows(*idle), "the page")
    assert browser.title == "Dask: Seamless"
    assert shows("project demo", "cluster local", "kind LocalCluster", "walltime none")
    process = real_stack.start_workload("sleepers", salt="browser", n=25)
    waiting = ("Transformations with a worker: ", "; no slot: 6 of 6 slots are in use")
    wait_until(lambda: shows("6 of 6", *waiting), "nested work")
    # at once: on a busy machine the work may end while samples are waited for
    wait_until(lambda: browser.execute_script(OPEN), "a group")
    wait_until(lambda: browser.execute_script(ROWS) > 1, "the group that was opened")
    sampled = browser.execute_script(SAMPLES)
    wait_until(lambda: browser.execute_script(SAMPLES) > sampled, "more samples")
    for width in (800, 1280, 1920):
        browser.set_window_size(width, 1000)
        wait_until(lambda: browser.execute_script(CUT) == [], f"{width} pixels")
    link = browser.execute_script(LINK)
    assert json.loads(fetch(f"{link}.json"))["found"]
    assert "<h1>" in fetch(link)
    driver = real_stack.finish(process, begin=time.monotonic(), timeout=90)
    assert driver.value["values_ok"]
    ended = ("137 stored", "Waiting transformations: none")
    wait_until(lambda: shows(*ended), "the end")
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert severe == []
    check_report(dashboard, browser)


def check_report(dashboard: str, browser: webdriver.Chrome) -> None:
    """Where the time went, as the workers have reported it; once in HTML."""
    report = json.loads(fetch(f"{dashboard}/seamless/report.json"))
    rows = {row["name"]: row for row in report["names"]}
    leaf, job = rows["leaf"], rows["job"]
    assert (leaf["computed"], job["computed"], job["failed"]) == (108, 25, 0)
    # quantiles are exact to 2.5 %
    assert 0.5 * 0.97 <= leaf["median"] <= leaf["p95"] <= leaf["longest"] * 1.03
    assert job["median"] > leaf["median"], "a job waits for its leaves"
    assert job["waits"]["slot"] > 0 and leaf["waits"]["slot"] > 0
    assert leaf["cpu"] > 0 and leaf["memory"] > 2**20
    assert max(filter(None, report["slots"]["used"])) >= 5
    found = fetch(f"{dashboard}/metrics")
    assert 'seamless_transformation_seconds_count{function="leaf"} 108.0' in found
    assert 'seamless_transformation_wait_seconds_count{function="job"} 25.0' in found
    browser.get(f"{dashboard}/seamless/report")
    assert "Where the time went" in browser.execute_script(TEXT)
    urls = "return performance.getEntriesByType('resource').map(each => each.name)"
    used = [url for url in browser.execute_script(urls) if "favicon" not in url]
    assert used == [], "it needs nothing else"


def dashboard_of(stack: RealStack) -> str:
    """The address of the pages of a stack's scheduler."""
    (port,) = (
        status["dashboard_port"]
        for key, status in stack.services().items()
        if key.startswith("daskserver-")
    )
    return f"http://127.0.0.1:{port}"
