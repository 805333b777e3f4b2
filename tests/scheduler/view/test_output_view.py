"""Following the output of transformations on a real scheduler, with real workers."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.schedulers import A, asynchronous, cluster, gate, pass_gate, until

from scheduler_ext import outputs

pytestmark = pytest.mark.cluster


def texts(answer: dict[str, Any]) -> list[str]:
    return [text for row in answer["outputs"] for _, text, _ in row["pieces"]]


@asynchronous
async def test_who_follows_misses_no_process() -> None:
    """Neither one that begins late, nor the next one if the worker was lost.

    A lost worker cannot say that the output ends.
    """
    key = f"base-{A}"
    asked: list[tuple[str, bool]] = []
    runs: list[str] = []

    async with cluster() as c:
        client = await c.client()
        workers = {name: await c.worker() for name in ("dies", "stays")}

        def answers(name: str) -> Any:
            async def recent(keys: Any, stream: bool) -> dict[str, Any]:
                asked.append((name, stream))
                return {"status": "ok", "outputs": dict.fromkeys(runs, [])}

            return recent

        for name, worker in workers.items():
            worker.handlers[outputs.WORKER_OUTPUT] = answers(name)
            await c.register(worker)

        async def follow(since: int | None) -> dict[str, Any]:
            question = outputs.question(A[:12], since=since, follow=True)
            answer: dict[str, Any] = await c.call.seamless_output(**question)
            assert answer["status"] == "ok"
            return answer

        def says(name: str, number: int, text: str) -> None:
            event = outputs.event(key, A, "f", number, [(1, text, 0)], False)
            workers[name].log_event(outputs.TOPIC, event)

        def on(name: str) -> bool:
            task = c.scheduler.tasks.get(key)
            where = task and task.processing_on
            return bool(where) and where.address == workers[name].address

        async def arrived(number: int) -> None:
            await until(lambda: c.plugin._output.outputs.added == number)

        future = client.submit(
            pass_gate,
            "x",
            key=key,
            workers=[workers["dies"].address],
            allow_other_workers=True,
        )
        await until(lambda: on("dies"))
        number = (await follow(None))["number"]
        assert asked == [("dies", True)]
        runs.append(key)  # only now does a process run it
        number = (await follow(number))["number"]
        assert asked == [("dies", True)] * 2
        says("dies", 0, "first\n")
        await arrived(1)
        answer = await follow(number)
        assert texts(answer) == ["first\n"]
        await c.scheduler.remove_worker(workers["dies"].address, stimulus_id="test")
        await until(lambda: on("stays"))
        answer = await follow(answer["number"])
        assert asked == [("dies", True), ("dies", True), ("stays", True)]
        says("stays", 0, "second\n")
        await arrived(2)
        answer = await follow(answer["number"])
        assert texts(answer) == ["second\n"]
        assert asked == [("dies", True), ("dies", True), ("stays", True)]
        gate("x").set()
        await future
