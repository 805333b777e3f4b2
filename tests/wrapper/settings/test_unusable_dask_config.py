"""Faults in Dask's own configuration, and JSON with a key twice, are sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.wrapper_process import WrapperProcess
from helpers.written import BATCH, problems

from seamless_dask.command.dask_loading import logging_problems
from seamless_dask.wrapper.settings import json_text


def command(
    directory: Path, config: str | None, module: str, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with a file in Dask's configuration."""
    folder = directory / "config"
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "dask.yaml").write_text(config)
    return subprocess.run(
        [sys.executable, "-m", f"seamless_dask.{module}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "DASK_CONFIG": str(folder), "HOME": str(directory), **more},
    )


def dry_run(
    directory: Path, config: str | None, text: str = json.dumps(BATCH), **more: str
) -> subprocess.CompletedProcess[str]:
    file = directory / "parameters.json"
    file.write_text(text)
    return command(
        directory,
        config,
        *("wrapper", "dask_jobqueue::SLURMCluster", "--dry-run"),
        *("--parameters", str(file)),
        **more,
    )


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[1, 2]", "dask.yaml"),
        ("text", "dask.yaml"),
        ("a: [", "dask.yaml"),
        ("5: 6", "are all keys texts?"),
        ("logging: 5", "logging = 5: allowed is a mapping"),
        ("distributed: {logging: []}", "distributed.logging = []: allowed"),
        ("logging: {distributed: loud}", "logging.distributed = 'loud': allowed is a"),
        ("distributed: {admin: {log-format: 5}}", "log-format = 5: allowed is a text"),
        ("logging: {version: 5}", "Dask cannot be imported with this configuration"),
    ],
)
def test_dask_that_cannot_be_imported(tmp_path: Path, config: str, said: str) -> None:
    """The wrapper and the command that shows the state say why, in one line."""
    for done, code in (
        (dry_run(tmp_path, config), 6),
        (command(tmp_path, config, "status", "tcp://127.0.0.1:9"), 1),
    ):
        assert done.returncode == code and not done.stdout
        assert said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.cluster
def test_the_environment_is_checked_like_files(tmp_path: Path) -> None:
    done = dry_run(tmp_path, None, DASK_LOGGING="5")
    assert done.returncode == 6 and "logging = 5: allowed" in done.stderr
    done = dry_run(tmp_path, None, DASK_INTERNAL_INHERIT_CONFIG="garbage")
    assert done.returncode == 6 and len(done.stderr.splitlines()) == 1


@pytest.mark.cluster
def test_the_caller_of_the_wrapper_learns_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "dask.yaml").write_text("[1]")
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "config"))
    wrapper = WrapperProcess(tmp_path, {})
    with wrapper:
        assert wrapper.wait() == 6, wrapper.output()
    status = wrapper.status()
    assert status["status"] == "failed" and "dask.yaml" in status["error"]
    assert "Traceback" not in wrapper.output()


def test_levels_of_loggers() -> None:
    good = {"a": "info", "b": "DEBUG", "c": 10}
    assert not logging_problems({"logging": good, "distributed": {"logging": good}})
    assert not logging_problems({"logging": {"version": 1, "handlers": {}}})
    found = problems("", {"extra_dask_config": {"logging": {"a": "loud", "b": True}}})
    assert [problem.partition(":")[0] for problem in found] == [
        "Dask's configuration logging.a = 'loud'",
        "Dask's configuration logging.b = True",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("python", 7),
        ("python", ["python"]),
        ("worker-command", 5),
        ("interface", True),
        ("resource-spec", 3),
        ("shared-temp-directory", 3),
        ("queue", ["a"]),
        ("account", 1.5),
        ("scheduler-options", []),
        ("submit-command-extra", "--x"),
        ("env-extra", 5),
        ("use-stdin", "maybe"),
    ],
)
def test_keys_of_dask_jobqueue(key: str, value: Any) -> None:
    raw = {**BATCH, "extra_dask_config": {f"jobqueue.slurm.{key}": value}}
    (problem,) = problems("slurm", raw)
    assert problem.startswith(
        f"Dask's configuration jobqueue.slurm.{key} = {value!r}: "
    )


def test_right_keys_of_dask_jobqueue() -> None:
    section = {
        **{"python": "python3", "queue": 5, "account": "a", "use-stdin": True},
        **{"scheduler-options": {"port": 5}, "submit-command-extra": ["-v"]},
        **{"interface": "ib0", "shared-temp-directory": "/tmp"},
    }
    raw = {**BATCH, "extra_dask_config": {"jobqueue": {"slurm": section}}}
    assert not problems("slurm", raw)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"a": 1, "a": 2}', "'a'"),
        ('{"a": [{"b": 1, "c": 2, "b": 1, "c": 3}]}', "'b', 'c'"),
    ],
)
def test_a_key_that_is_written_twice(text: str, named: str) -> None:
    """JSON would keep the last one."""
    with pytest.raises(ValueError, match=f"^{named} is written twice"):
        json_text.parse(text)
    assert json_text.parse('[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]


@pytest.mark.cluster
def test_a_parameter_that_is_written_twice(tmp_path: Path) -> None:
    text = json.dumps(BATCH)[:-1] + ', "cores": 8}'
    done = dry_run(tmp_path, None, text)
    assert done.returncode == 3 and "'cores' is written twice" in done.stderr
    wrapper = WrapperProcess(
        tmp_path, content='{"status": "starting", "parameters": ' + text + "}"
    )
    with wrapper:
        assert wrapper.wait() == 3
    assert "'cores' is written twice" in wrapper.output()


@pytest.mark.cluster
@pytest.mark.parametrize("system", ["SLURM", "HTCondor", "PBS", "OAR"])
def test_a_dry_run_makes_no_directory(tmp_path: Path, system: str) -> None:
    name = system.lower()
    logs = tmp_path / "logs"
    section = {"log-directory": str(logs), "disk": "1GB"}
    parameters = {
        **{**BATCH, "memory_per_core_property_name": "x"},
        "extra_dask_config": {"jobqueue": {name: section}},
    }
    file = tmp_path / "parameters.json"
    file.write_text(json.dumps(parameters))
    done = command(
        tmp_path,
        None,
        *("wrapper", f"dask_jobqueue::{system}Cluster", "--dry-run"),
        *("--parameters", str(file)),
    )
    assert done.returncode == 0, done.stderr
    assert str(logs) in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"config", "parameters.json"}
