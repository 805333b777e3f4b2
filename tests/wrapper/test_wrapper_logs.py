"""The log of a run: what was decided, in one format, without noise."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client
from distributed.comm import CommClosedError
from helpers.wrapper_process import WrapperProcess

from seamless_dask.wrapper import cli, logs

LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) +([\w.]+): (.+)"
)


def as_logged(name: str, problem: Exception, capsys) -> str:
    """What the log says of an exception, which has another one behind it."""
    handler = logging.StreamHandler()
    handler.addFilter(logs.shorten)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        try:
            raise RuntimeError("no nanny") from problem
        except RuntimeError:
            logger.exception("Exception while handling op %s", "register_nanny")
    finally:
        logger.removeHandler(handler)
    return capsys.readouterr().err


def test_who_vanished_is_told_in_one_line(capsys) -> None:
    """The traceback would be that of a reader, whose connection was cut."""
    for problem in (CommClosedError("gone"), ConnectionRefusedError("gone")):
        text = as_logged("distributed.core", problem, capsys)
        assert text == (
            "Exception while handling op register_nanny: "
            f"{type(problem).__name__}: gone\n"
        )
    for name, other in (
        ("distributed.core", KeyError("gone")),
        ("seamless_dask.wrapper", CommClosedError("gone")),
    ):
        assert "Traceback" in as_logged(name, other, capsys), "a bug of somebody"


def test_levels_are_named(capsys) -> None:
    """As everywhere, an unknown one is refused with those that there are."""
    with pytest.raises(SystemExit):
        cli.main(["distributed::LocalCluster", "--log-level", "loud"])
    assert re.search("DEBUG.*INFO.*WARNING.*ERROR", capsys.readouterr().err)


def said(wrapper: WrapperProcess) -> Iterator[tuple[str, str, str]]:
    """(level, logger, message) of each line."""
    for line in wrapper.output().splitlines():
        match = LINE.fullmatch(line)
        assert match, f"not in the format: {line!r}"
        yield match[1], match[2], match[3]


@pytest.mark.cluster
def test_the_log_of_a_run(tmp_path: Path) -> None:
    """Three clients and a worker are no news, unless somebody asks for them."""
    parameters = {
        "cores": 1,
        "extra_dask_config": {"logging": {"distributed.worker": "info"}},
    }
    with WrapperProcess(tmp_path, parameters) as wrapper:
        wrapper.until_running()
        for number in range(3):
            with Client(wrapper.address(), set_as_default=False) as client:
                futures = client.map(abs, range(100 * number, 100 * number + 100))
                client.gather(futures)
        wrapper.process.send_signal(signal.SIGINT)
        assert wrapper.wait() == 0
    lines = list(said(wrapper))
    assert {level for level, _, _ in lines} <= {"INFO", "WARNING"}
    worker = [message for _, name, message in lines if name == "distributed.worker"]
    assert any("Start worker at" in message for message in worker), "asked for"
    rest = [line for line in lines if line[1] != "distributed.worker"]
    loggers = {name for _, name, _ in rest}
    assert loggers <= {
        "distributed.nanny",
        "scheduler_ext.plugin",
        "seamless_dask.wrapper.scaling.local",
        "seamless_dask.wrapper.settings.security",
        "seamless_dask.wrapper.supervisor",
    }
    assert len(rest) < 20, rest
    text = "\n".join(message for _, _, message in rest)
    for event in ("Starting distributed::LocalCluster", "Running after", "0 -> 1"):
        assert event in text
    assert lines[-1][2] == "Ended with exit code 0."


@pytest.mark.cluster
def test_a_level_that_does_not_exist(tmp_path: Path) -> None:
    """The start fails, and says of which key."""
    parameters = {"extra_dask_config": {"logging": {"distributed.core": "loud"}}}
    with WrapperProcess(tmp_path, parameters) as wrapper:
        assert wrapper.wait() != 0
        error = wrapper.status()["error"]
    assert "logging.distributed.core = 'loud': allowed is a level" in error
