"""What the command does with bad input: a sentence, a code, and nothing left."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.wrapper_process import WrapperProcess

pytestmark = pytest.mark.cluster


def check_failure(wrapper: WrapperProcess, code: int, *sentences: str) -> None:
    """The wrapper ends by itself, says why in log and status file, and no more."""
    with wrapper:
        assert wrapper.wait() == code, wrapper.output()
    status = wrapper.status()
    log = wrapper.output()
    assert "Traceback" not in log
    for sentence in sentences:
        assert re.search(sentence, log), log
    if wrapper.status_file.exists():
        assert status["status"] == "failed"
        for sentence in sentences:
            assert re.search(sentence, status["error"])
        assert status["meta"] == wrapper.fields["meta"]


def test_no_status_file(tmp_path: Path) -> None:
    """Without a status file it ends after 20 s."""
    wrapper = WrapperProcess(tmp_path)
    check_failure(wrapper, 1, "Waited 20 s for the status file .*does not exist")
    assert not wrapper.status_file.exists()


DEEP = "[" * 100_000
#: Few enough brackets for a parser, but too many for what comes behind it.
RATHER_DEEP = json.dumps({"status": "starting", "parameters": {"cores": 1}}).replace(
    "1", '{"a": ' * 500 + "1" + "}" * 500
)


@pytest.mark.parametrize(
    "content",
    ["{nonsense", "[1, 2]", '"text"', DEEP, '{"a": ' + DEEP, RATHER_DEEP],
    ids=["nonsense", "list", "text", "deep", "deep-field", "rather-deep"],
)
def test_no_json_object(tmp_path: Path, content: str) -> None:
    """A file that is no JSON object is refused, and left as it is."""
    wrapper = WrapperProcess(tmp_path, content=content)
    with wrapper:
        assert wrapper.wait() == 3
    assert "Traceback" not in wrapper.output()
    assert "JSON" in wrapper.output()
    assert wrapper.status_file.read_text() == content


@pytest.mark.parametrize("content", [DEEP, RATHER_DEEP], ids=["deep", "rather-deep"])
def test_a_dry_run_of_what_is_nested_too_deeply(tmp_path: Path, content: str) -> None:
    """It may come from a file or from a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "seamless_dask.wrapper", "distributed::LocalCluster"]
        + ["--dry-run", "--parameters", "/dev/stdin"],
        input=content,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "/dev/stdin cannot be read: is nested more than 100 levels" in done.stderr
    assert "Traceback" not in done.stderr


def test_parameters_missing(tmp_path: Path) -> None:
    """A file without parameters fails, and says so."""
    wrapper = WrapperProcess(tmp_path, {})
    fields = {name: value for name, value in wrapper.fields.items()}
    fields.pop("parameters")
    with wrapper:
        pass
    wrapper = WrapperProcess(tmp_path, content=json.dumps(fields))
    check_failure(wrapper, 3, 'has no field "parameters"')


def test_parameters_wrong(tmp_path: Path) -> None:
    """All problems are in the log and in the status file."""
    parameters = {"cores": "many", "walltime": "soon", "colour": "red"}
    wrapper = WrapperProcess(tmp_path, parameters)
    check_failure(wrapper, 3, "2 problems", "cores = 'many'", "walltime = 'soon'")


def test_unknown_parameters(tmp_path: Path) -> None:
    """Unknown names are mentioned, next to the problems."""
    wrapper = WrapperProcess(tmp_path, {"colour": "red"}, cluster="nonsense")
    check_failure(wrapper, 4)
    assert "Parameter colour is not known: ignored." in wrapper.output()


def test_batch_parameters_missing(tmp_path: Path) -> None:
    """What only a batch system needs is checked for a batch system."""
    wrapper = WrapperProcess(tmp_path, {}, cluster="dask_jobqueue::OARCluster")
    check_failure(wrapper, 3, "4 problems", "walltime: is required")


def test_ports_exhausted(tmp_path: Path) -> None:
    """A port range without free ports is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrapper = WrapperProcess(tmp_path, {}, ports=(port, port))
        check_failure(wrapper, 5, f"port range {port}-{port}")


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ("LocalCluster", "MODULE::SYMBOL"),
        ("no_such_module::LocalCluster", "not installed"),
        ("distributed::NoSuchCluster", "has no 'NoSuchCluster'"),
        ("distributed::Client", "no cluster class"),
        ("instance::cluster", "exists already"),
    ],
)
def test_cluster_string(tmp_path: Path, cluster: str, sentence: str) -> None:
    """A cluster string that names no cluster class, or an instance."""
    (tmp_path / "instance.py").write_text(
        "from distributed import LocalCluster\n"
        "cluster = LocalCluster(n_workers=0, processes=False, dashboard_address=':0')"
    )
    wrapper = WrapperProcess(tmp_path, {}, cluster=cluster, modules=tmp_path)
    check_failure(wrapper, 4, sentence)


def test_a_cluster_that_does_not_start(tmp_path: Path) -> None:
    """A cluster class that raises: a sentence, and here a traceback under it."""
    (tmp_path / "broken.py").write_text(
        "from distributed import LocalCluster\n"
        "class Cluster(LocalCluster):\n"
        "    def __init__(self, **kwargs):\n"
        "        raise RuntimeError('no licence')\n"
    )
    wrapper = WrapperProcess(tmp_path, {}, cluster="broken::Cluster", modules=tmp_path)
    with wrapper:
        assert wrapper.wait() == 6
    assert "could not be started: RuntimeError: no licence" in wrapper.output()
    assert wrapper.status()["status"] == "failed"
    assert "no licence" in wrapper.status()["error"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "required"),
        (["distributed::LocalCluster", "--port-range", "9", "1"], "required"),
        (["x::y", "--port-range", "9", "1", "--status-file", "f"], "9 is above 1"),
        (["x::y", "--port-range", "0", "9", "--status-file", "f"], "between 1 and"),
        (["x::y", "--port-range", "a", "9", "--status-file", "f"], "invalid _?port"),
        (
            ["x::y", "--port-range", "1", "9", "--status-file", "f", "--timeout", "-1"],
            "above zero",
        ),
    ],
)
def test_command_line(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    """A wrong command line: usage and a sentence, code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "seamless_dask.wrapper", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    assert re.search(sentence, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_exit_code() -> None:
    """--help explains; it does not wait for Dask."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "seamless_dask.wrapper", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        timeout=60,
    )
    assert done.returncode == 0
    for code in range(9):
        assert re.search(rf"^  {code}  ", done.stdout, re.MULTILINE)
    assert "distributed" not in done.stderr


@pytest.mark.parametrize("below", ["/proc/nowhere/logs", "FILE/logs", "FILE"])
@pytest.mark.parametrize("dry", [False, True])
def test_directories_that_cannot_be_made(tmp_path: Path, below: str, dry: bool) -> None:
    """Directories for output and for temporary files: the key, the value, the reason."""
    (tmp_path / "a file").touch()
    directory = below.replace("FILE", str(tmp_path / "a file"))
    key = "jobqueue.slurm.log-directory"
    batch = {"cores": 1, "memory": "1GB", "walltime": "01:00:00"}
    batch["extra_dask_config"] = {key: directory}
    cases = {
        "dask_jobqueue::SLURMCluster": (
            batch,
            f"{key} = {directory!r}: cannot be made",
        ),
        "distributed::LocalCluster": (
            {"tmpdir": directory},
            f"tmpdir = {directory!r}: cannot be made",
        ),
    }
    for cluster, (parameters, sentence) in cases.items():
        if dry:
            file = tmp_path / "parameters.json"
            file.write_text(json.dumps(parameters))
            done = subprocess.run(
                [sys.executable, "-m", "seamless_dask.wrapper", cluster]
                + ["--dry-run", "--parameters", str(file)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 3
            assert sentence in done.stderr and "Traceback" not in done.stderr
        else:
            wrapper = WrapperProcess(tmp_path, parameters, cluster=cluster)
            check_failure(wrapper, 3, re.escape(sentence))


def test_a_directory_for_temporary_files_that_takes_none(tmp_path: Path) -> None:
    """The scheduler has its own elsewhere: that one may exist on compute nodes only."""
    parameters = {"extra_dask_config": {"temporary-directory": "/proc"}}
    with WrapperProcess(tmp_path, parameters) as wrapper:
        wrapper.until_running()
    assert "Traceback" not in wrapper.output()


def test_files_to_load_that_are_not_there(tmp_path: Path) -> None:
    """Those of all processes on this machine; modules and addresses are left to Dask."""
    there = tmp_path / "there.py"
    there.touch()
    missing = str(tmp_path / "missing.py")
    config = {
        "distributed.scheduler.preload": [str(there), missing],
        "distributed.worker.preload": missing,
    }
    wrapper = WrapperProcess(tmp_path, {"extra_dask_config": config})
    check_failure(
        wrapper,
        3,
        "2 problems",
        re.escape(
            f"distributed.scheduler.preload = {missing!r}: there is no such file"
        ),
        re.escape(f"distributed.worker.preload = {missing!r}: there is no such file"),
    )
