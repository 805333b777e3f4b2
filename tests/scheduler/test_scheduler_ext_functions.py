"""Names of functions come from the code of users and go everywhere: they do no harm."""

from __future__ import annotations

import json
import logging

from distributed.protocol import dumps, loads
from helpers.schedulers import A, B, C, asynchronous, cluster, gate, pass_gate, until
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler_ext import messages, prefixes
from scheduler_ext.functions import MAX_NAME, Functions, clean, unnamed
from scheduler_ext.task_keys import base_key, prefix_of

#: any text, also lone surrogates
anything = st.text(
    st.characters(codec=None) | st.sampled_from("\x00\n\r\x1b\ud800\u202e\"'<&")
)
CODES = [f"{number:064x}" for number in range(20)]


@given(anything, st.integers(2, 100))
@example("x" * 10_240, 60)
@example("\ud800\x00\x1b[31m", 60)
@example("\u202egpj.exe", 60)
def test_a_clean_name_can_go_anywhere(text: str, limit: int) -> None:
    """One line of bounded length that UTF-8 can encode; what is clean stays as it is."""
    name = clean(text, limit)
    assert len(name) <= limit and name.isprintable() and name == name.strip()
    assert loads(dumps(name)) == name
    assert json.loads(json.dumps(name)) == name
    assert clean(name, limit) == name


def test_a_name_is_readable_after_it_was_cleaned() -> None:
    """Letters of all languages stay; blanks take the place of what was taken out."""
    assert clean("décalage") == "décalage"
    assert clean(" a\n\tb\x00c ") == "a b c"
    assert clean("x" * 100) == "x" * (MAX_NAME - 1) + "…"
    assert clean(b"bytes") == clean(None) == ""


@given(
    st.lists(
        st.tuples(st.sampled_from(CODES), st.none() | st.sampled_from(["f", "g", ""]))
    ),
    st.integers(1, 5),
)
def test_the_names_that_were_used_last_are_kept(
    events: list[tuple[str, str | None]], limit: int
) -> None:
    """Compared with a list; a name without anything to read changes nothing."""
    functions = Functions(limit)
    model: list[tuple[str, str]] = []
    for code, name in events:
        known = dict(model)
        new = name or known.get(code)
        if name is None:
            functions.used(code)
        else:
            functions.learn(code, name)
        if name != "" and new is not None:
            model = [each for each in model if each[0] != code] + [(code, new)]
        model = model[-limit:]
    assert len(functions) == len(model)
    for code in CODES:
        key = base_key(A, {}, code=code)
        assert functions.name(key) == dict(model).get(code)
        assert functions.name_of(prefix_of(code)) == dict(model).get(code)


def test_what_stands_for_a_name() -> None:
    """The first digits of the code; nothing is known of code that is computed."""
    functions = Functions()
    assert functions.shown(base_key(A, {}, code=B)) == "code bbbbbbbb"
    assert functions.shown(base_key(A, {})) == functions.shown(None) == "unnamed"
    functions.learn(B, "score")
    assert functions.shown(base_key(A, {}, code=B)) == "score"
    assert unnamed(base_key(A, {}, code=B)) == "code bbbbbbbb"


def test_search_by_name() -> None:
    """Equal names come before names that contain the text; case does not matter."""
    functions = Functions()
    for code, name in ((A, "score"), (B, "Score"), (C, "rescore")):
        functions.learn(code, name)
    assert functions.named("SCORE") == {A, B}
    assert functions.named("resc") == {C}
    assert functions.named("cor") == {A, B, C}
    assert functions.named("\n") == functions.named("dock") == set()


# -- on a scheduler ----------------------------------------------------------------


@asynchronous
async def test_a_client_tells_names_and_bad_ones_do_no_harm(caplog) -> None:
    """Its connection stays, whatever it sends."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker()
        await c.register(worker)
        key = base_key(A, {}, code=B)
        await c.request(worker, key)
        label = "unknown"

        async def told(name: object, code: object = B) -> str:
            message = {"op": messages.OP_FUNCTION, "code": code, "name": name}
            client._send_to_scheduler(message)
            client._send_to_scheduler(messages.mark(1, 0))
            seen.clear()
            await until(lambda: seen)
            row = (await c.call.seamless_status())["transformations"]["waiting"][0]
            assert row["label"] == (row["name"] or "code bbbbbbbb")
            return row["label"]

        seen: list[int] = []
        client._stream_handlers[messages.PUSH_SEEN] = lambda number, **_: seen.append(
            number
        )
        assert await told("x", "no checksum") == "code bbbbbbbb"
        with caplog.at_level(logging.CRITICAL):
            for bad in (7, "", "x" * 2_000, None, ["a"]):
                assert await told(bad) == "code bbbbbbbb"
        label = await told("<b>\x1b[31m\"'\u202e")
        assert label == "<b> [31m\"'"
        assert client.status == "running"
        now = c.plugin.operations
        from scheduler_ext.view.dashboard import Page, Shown

        page = Page(Shown(now))
        page.update()
        shown = page._waiting.root.text
        assert "&lt;b&gt; [31m&quot;&#x27;" in shown and "<b>" not in shown


@asynchronous
async def test_dask_learns_how_long_each_function_takes() -> None:
    """All transformations with one code are one function to Dask."""
    async with cluster() as c:
        client = await c.client()
        await c.worker()
        gate("x").set()
        for number, code in enumerate((A, A, B)):
            key = base_key(f"{number:064x}", {}, code=code)
            assert await client.submit(pass_gate, "x", key=key) == "x"
        found = c.scheduler.task_prefixes
        assert found.keys() == {prefix_of(A), prefix_of(B)}
        assert found[prefix_of(A)].state_counts["memory"] == 2
        assert min(each.duration_average for each in found.values()) >= 0


@asynchronous
async def test_prefixes_that_nobody_uses_are_forgotten(monkeypatch) -> None:
    """The oldest go, with Dask's figures of them; what runs, or was used last, stays."""
    monkeypatch.setattr(prefixes, "SLACK", 3)
    async with cluster(interval=3600) as c:
        monkeypatch.setattr(c.plugin._prefixes, "_kept", 5)
        client = await c.client()
        worker = await c.worker(nthreads=2)
        gate("x").set()

        async def run(number: int) -> None:
            key = base_key(f"{1:064x}", {}, code=CODES[number])
            future = client.submit(pass_gate, "x", key=key)
            assert await future == "x"
            future.release()
            await until(lambda: key not in c.scheduler.tasks)

        def present() -> list[int]:
            names = c.scheduler.task_prefixes
            return [n for n, code in enumerate(CODES) if prefix_of(code) in names]

        runs = client.submit(
            pass_gate, "y", key=base_key(f"{1:064x}", {}, code=CODES[0])
        )
        await until(lambda: worker.state.executing_count)
        for number in range(1, 8):
            await run(number)
        await worker.heartbeat()
        c.plugin.step(0.0)
        assert present() == list(range(8)), "not yet too many"
        await run(1)
        await run(8)
        await worker.heartbeat()
        c.plugin.step(0.0)
        assert present() == [0, 1, 6, 7, 8]
        kept = {prefix_of(CODES[number]) for number in present()}
        measured = {
            key[1]
            for key in c.scheduler.cumulative_worker_metrics
            if isinstance(key, tuple) and key[0] == "execute"
        }
        assert measured <= kept and prefix_of(CODES[8]) in measured
        await run(2)  # a function that was forgotten may come back
        assert present() == [0, 1, 2, 6, 7, 8]
        gate("y").set()
        await runs
        c.scheduler.validate_state()
