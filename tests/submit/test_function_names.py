"""The names that clients read in code, and tell the scheduler once."""

from __future__ import annotations

from typing import Any

import pytest
from distributed import Client, LocalCluster
from helpers.schedulers import asynchronous, until
from hypothesis import given
from hypothesis import strategies as st
from seamless import Buffer

import scheduler_ext
from scheduler_ext.functions import MAX_NAME
from scheduler_ext.messages import OP_FUNCTION
from scheduler_ext.task_keys import base_key
from seamless_dask.submit import function_names
from seamless_dask.submit.function_names import FunctionNames, name_in


@pytest.mark.parametrize(
    ("code", "language", "name"),
    [
        ("def score(x):\n    def inner(): pass\n    return x", "python", "score"),
        ("@direct\nasync  def dock (x):\n    return x", "python", "dock"),
        ("import os\n\ndef a():\n    pass\ndef b():\n    pass\n", "python", "b"),
        ("def größe(x):\n    return x", "ipython", "größe"),
        ("lambda x: 2 * x", "python", "lambda x: 2 * x"),
        (
            "# twice\nimport math\nresult = 2 * math.pi",
            "python",
            "result = 2 * math.pi",
        ),
        ("import math", "python", "import math"),
        ("not python at all (", "python", "not python at all ("),
        ("sort -n -k 2 file > RESULT", "bash", "sort -n -k"),
        ("#!/bin/bash\n\n set -eu\ncat a|wc", "bash", "cat a|wc"),
        ("int transform(int a) {}", "c", "transform (c)"),
        ("", "python", "(empty)"),
    ],
)
def test_names(code: str, language: str, name: str) -> None:
    """Functions, first words, entry functions."""
    assert name_in(code, language) == name


@given(st.text(st.characters(codec=None)), st.sampled_from(["python", "bash", "\x00"]))
def test_any_code_has_a_name(code: str, language: str) -> None:
    """That can be shown."""
    name = name_in(code, language)
    assert len(name) <= MAX_NAME and name.isprintable()
    assert len(name_in(f"def {'x' * 10_000}(): pass", language)) <= MAX_NAME


def transformation(code: str) -> tuple[dict[str, Any], Buffer, str]:
    """Its dictionary, the buffer of its code, and the key of its task."""
    buffer = Buffer(code.encode())
    checksum = buffer.get_checksum().hex()
    pin = ("python", "transformer", checksum)
    return {"code": pin}, buffer, base_key("1" * 64, {}, code=checksum)


@pytest.mark.cluster
@asynchronous
async def test_a_name_is_sent_once() -> None:
    """As soon as the code is at hand; nothing is fetched."""
    async with LocalCluster(
        n_workers=0, processes=False, asynchronous=True, dashboard_address=None
    ) as cluster:
        functions = scheduler_ext.attach(cluster.scheduler).operations.functions
        async with Client(cluster, asynchronous=True, set_as_default=False) as client:
            sent = []
            send = client._send_to_scheduler

            def counted(message: Any) -> None:
                if message["op"] == OP_FUNCTION:
                    sent.append(message)
                send(message)

            client._send_to_scheduler = counted
            names = FunctionNames(client)
            definition, buffer, key = transformation("def score(): pass")
            looked_for: list[str] = []

            def nowhere(checksum: str) -> None:
                looked_for.append(checksum)

            assert names.note(definition, nowhere) is None
            assert names.shown(key) == f"code {definition['code'][2][:8]}"
            for _ in range(3):
                assert names.note(definition, lambda _: buffer) == "score"
            assert names.shown(key) == "score"
            assert names.readable(f"cycle: {key} -> {key}-r2.") == (
                "cycle: score 111111111111 -> score 111111111111."
            )
            assert len(sent) == 1 and looked_for == [definition["code"][2]]
            await until(lambda: functions.name(key) == "score")

            # the name has come with a job: the scheduler knows it
            other, _, other_key = transformation("def dock(): pass")
            names.learn(other["code"][2], "dock")
            assert names.note(other, nowhere) == names.shown(other_key) == "dock"
            assert len(sent) == 1
            assert names.note({"code": ("python", None, None)}) is None
            assert names.note({}) is None
        names.note(transformation("def late(): pass")[0], lambda _: buffer)
        assert len(sent) == 1, "the client is closed"


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten, and would be sent again."""
    monkeypatch.setattr(function_names, "MAX_CODES", 3)
    names = FunctionNames(client=None)  # type: ignore[arg-type]  # nothing is sent
    codes = [f"{number:064x}" for number in range(5)]
    for code in codes:
        names.learn(code, "f")
    shown = [names.shown(base_key("1" * 64, {}, code=code)) for code in codes]
    assert shown == ["code 00000000", "code 00000000", "f", "f", "f"]
