"""--check and --dry-run with clusters.yaml: everything that is wrong, at once."""

from __future__ import annotations

import http.server
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from helpers.wrapper_process import wait_for

from seamless_dask.wrapper.preflight import batch
from seamless_dask.wrapper.preflight.findings import Findings

pytestmark = pytest.mark.slow

QUEUE: dict[str, Any] = {
    "conda": "",
    "cores": 2,
    "memory": "1GB",
    "walltime": "01:00:00",
    "maximum_jobs": 2,
}


def clusters(home: Path, kind: str = "slurm", **queues: Any) -> dict[str, Any]:
    """The content of a file with one cluster, whose frontend is this machine."""
    return {
        "local_cluster": "big",
        "big": {
            "type": kind,
            "frontends": [
                {
                    "hostname": "localhost",
                    "hashserver": {
                        "bufferdir": str(home / "buffers"),
                        "network_interface": "127.0.0.1",
                    },
                    "database": {
                        "database_dir": str(home / "database"),
                        "network_interface": "127.0.0.1",
                    },
                    "daskserver": {
                        "network_interface": "127.0.0.1",
                        "port_start": 1024,
                        "port_end": 65535,
                    },
                }
            ],
            "default_queue": "short",
            "queues": {"short": QUEUE, **queues},
        },
    }


def run(
    home: Path,
    content: Mapping[str, Any] | str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command in a home with that file."""
    file = home / ".seamless" / "clusters.yaml"
    file.parent.mkdir(exist_ok=True)
    text = (
        content
        if isinstance(content, str)
        else yaml.safe_dump(dict(content), sort_keys=False)
    )
    file.write_text(text)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SEAMLESS_")}
    return subprocess.run(
        [sys.executable, "-m", "seamless_dask.wrapper", *arguments],
        env={**kept, "HOME": str(home), **(environment or {})},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )


def files(home: Path) -> list[Path]:
    return sorted(home.rglob("*"))


def test_a_local_cluster_and_nothing_is_made(tmp_path: Path) -> None:
    content = clusters(tmp_path, "local")
    content["big"]["workers"] = 3
    ended = run(tmp_path, content, "--check", "--cluster", "big")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("Cluster big, queue short\n")
    assert '"maximum_jobs": 2' in ended.stdout
    assert '"threads_per_worker": 6' in ended.stdout
    assert ended.stdout.endswith("Nothing was found that would prevent a start.\n")
    assert files(tmp_path) == [
        tmp_path / ".seamless",
        tmp_path / ".seamless" / "clusters.yaml",
    ]


def test_the_job_script_of_a_queue(tmp_path: Path) -> None:
    """Project and queue from the command line; the script alone."""
    content = clusters(tmp_path, long={"TEMPLATE": "short", "walltime": "3-00:00:00"})
    content["big"]["frontends"][0]["daskserver"]["port_start"] = 23456
    arguments = ("--cluster", "big", "--queue", "long", "--project", "proteins")
    ended = run(tmp_path, content, "--dry-run", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("#!/usr/bin/env bash\n")
    assert "#SBATCH -t 3-00:00:00" in ended.stdout
    assert "#SBATCH -J seamless-proteins\n" in ended.stdout
    assert "tcp://127.0.0.1:23456" in ended.stdout


def test_the_folder_counts(tmp_path: Path) -> None:
    """As for a driver script: the project, and pure Dask, which has none."""
    (tmp_path / "seamless.yaml").write_text("- project: folder\n")
    dry_run = ("--dry-run", "--cluster", "big")
    ended = run(tmp_path, clusters(tmp_path), *dry_run)
    assert "#SBATCH -J seamless-folder\n" in ended.stdout, ended.stderr
    profile = tmp_path / "seamless.profile.yaml"
    profile.write_text("- cluster: big\n- execution: remote\n- persistent: false\n")
    ended = run(tmp_path, clusters(tmp_path), *dry_run)
    assert "#SBATCH -J seamless-big-short\n" in ended.stdout, ended.stderr
    assert "SEAMLESS_WORKER" not in ended.stdout


def test_misspelt_fields_all_at_once(tmp_path: Path) -> None:
    """seamless-config would name one of them, without its queue."""
    content = clusters(tmp_path, odd={**QUEUE, "TEMPLATE": "shrt", "wall_time": "1h"})
    content["big"]["frontends"][0]["daskserver"]["hots"] = "x"
    ended = run(tmp_path, content, "--check", "--cluster", "big")
    assert ended.returncode == 3
    assert "3 problems" in ended.stderr
    assert "did you mean walltime?" in ended.stderr
    assert "frontend 'localhost', daskserver, hots: is not known" in ended.stderr
    assert (
        "TEMPLATE = 'shrt': is no queue above it (did you mean short?)" in ended.stderr
    )


def test_wrong_names(tmp_path: Path) -> None:
    content = clusters(tmp_path, long={"TEMPLATE": "short"})
    ended = run(tmp_path, content, "--check", "--cluster", "bigg")
    assert ended.returncode == 3
    assert "cluster = 'bigg': is not described (did you mean big?)" in ended.stderr
    ended = run(tmp_path, content, "--check", "--cluster", "big", "--queue", "lnog")
    assert ended.returncode == 3
    assert "(did you mean long?); allowed is one of short, long" in ended.stderr


@pytest.mark.parametrize("text", ["", "a: [", "- a list", "big: nothing"])
def test_files_that_are_no_description(tmp_path: Path, text: str) -> None:
    """A sentence, and no traceback."""
    ended = run(tmp_path, text, "--check", "--cluster", "big")
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    assert "clusters.yaml" in ended.stderr or "allowed is a mapping" in ended.stderr


def test_everything_that_is_wrong_here(tmp_path: Path) -> None:
    """Parameters, ports, addresses, programs and folders in one report."""
    (tmp_path / "a file").touch()
    content = clusters(tmp_path, wrong={**QUEUE, "walltime": "soon", "memory": 4})
    frontend = content["big"]["frontends"][0]
    frontend["hashserver"]["bufferdir"] = str(tmp_path / "a file" / "buffers")
    frontend["database"]["network_interface"] = "no-such-host.invalid"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        frontend["daskserver"].update(port_start=port, port_end=port)
        ended = run(
            tmp_path,
            content,
            *("--check", "--cluster", "big", "--queue", "wrong"),
            environment={"PATH": str(tmp_path)},
        )
    assert ended.returncode == 3, ended.stdout
    said = ended.stdout.partition("to solve before a start:\n")[2]
    for text in (
        "- walltime = 'soon': allowed is",
        "- memory = 4: allowed is",
        "- network_interface = 'no-such-host.invalid' (database): cannot be resolved",
        f"- daskserver.port_start, port_end = {port}, {port}: 0 free ({port} in use), "
        "but 2 needed",
        "- hashserver.bufferdir = ",
        "- sbatch, which submits jobs: is not on PATH",
        "- squeue, which tells their states and finds them by their name: is not on",
        "- scancel, which cancels them: is not on PATH",
    ):
        assert text in said, (text, said)
    assert "8 problems to solve" in ended.stdout


ASK = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=9).status)"


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("before", ["", "example.org, .local"])
def test_a_proxy_that_services_would_be_asked_through(
    tmp_path: Path, variable: str, before: str
) -> None:
    """A dead one; the line that the report names is enough."""
    environment = {
        variable: "http://me:secret@127.0.0.1:9",
        "no_proxy": before,
        "NO_PROXY": "",
    }
    other = ({"http_proxy", "HTTP_PROXY"} - {variable}).pop()
    content = clusters(tmp_path, "local")
    arguments = ("--check", "--cluster", "big")
    ended = run(tmp_path, content, *arguments, environment=environment | {other: ""})
    if variable == "HTTP_PROXY":  # an empty http_proxy switches it off
        assert ended.returncode == 0 and "proxy" not in ended.stdout
        del environment[variable]
        environment["HTTP_PROXY"] = "http://me:secret@127.0.0.1:9"
        ended = run(tmp_path, content, *arguments, environment=environment)
    assert ended.returncode == 6, ended.stdout + ended.stderr
    assert "secret" not in ended.stdout
    said = ended.stdout.partition("to solve before a start:\n")[2]
    assert said.startswith(f"- {variable} = '127.0.0.1:9': requests to 127.0.0.1 would")
    line = said[said.index("export no_proxy=") :].strip()
    assert all(name in line for name in before.replace(" ", "").split(","))

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        ask = shlex.join([sys.executable, "-c", ASK, url])
        codes = [
            subprocess.run(
                ["bash", "-c", f"{first}\n{ask}"],
                env={**os.environ, **environment},
                capture_output=True,
                timeout=60,
            ).returncode
            for first in ("true", line)
        ]
        server.shutdown()
        thread.join()
    assert codes == [1, 0]
    environment["no_proxy"] = line.partition("=")[2].strip("'")
    ended = run(tmp_path, content, *arguments, environment=environment)
    assert ended.returncode == 0 and "proxy" not in ended.stdout


def test_a_proxy_that_may_pass_requests_on_is_a_warning(tmp_path: Path) -> None:
    content = clusters(tmp_path, "local")
    del content["local_cluster"]
    content["big"]["frontends"][0]["hostname"] = "192.0.2.77"  # an address of nobody
    environment = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    arguments = ("--check", "--cluster", "big")
    ended = run(tmp_path, content, *arguments, environment=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "http_proxy = 'http://127.0.0.1:9': requests to 192.0.2.77" in ended.stdout
    assert "export no_proxy=127.0.0.1,192.0.2.77,localhost" in ended.stdout


def test_warnings_do_not_prevent_a_start(tmp_path: Path) -> None:
    """The loopback, folders of one machine, names without effect."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "sinfo"):
        (programs / name).write_text("#!/bin/sh\necho no daemon here >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    extra = {
        "seamless.transformation-throtle": 1,
        "jobqueue.slurm.job-script-prologe": ["module load gcc"],
    }
    content = clusters(tmp_path, odd={**QUEUE, "extra_dask_config": extra})
    frontend = content["big"]["frontends"][0]
    frontend["hashserver"].update(port_start=2000, port_end=2010)
    frontend["database"].update(port_start=2010, port_end=2020)
    ended = run(
        tmp_path,
        content,
        *("--check", "--cluster", "big", "--queue", "odd"),
        environment={"PATH": f"{programs}:/usr/bin:/bin"},
    )
    assert ended.returncode == 0, ended.stdout
    for text in (
        "'127.0.0.1' (hashserver, database, daskserver): is the loopback, which jobs on other machines cannot reach",
        "sinfo answered: no daemon here",
        "(did you mean transformation_throttle?)",
        "(did you mean job-script-prologue?)",
        "2000, 2010: overlaps the ports of the database, 2010 to 2020",
        "output of jobs = ",
    ):
        assert text in ended.stdout, (text, ended.stdout)
    assert not ended.stderr


def test_a_frontend_that_is_elsewhere_or_is_not_said_to_be_here(tmp_path: Path) -> None:
    content = clusters(tmp_path)
    del content["local_cluster"]
    frontend = content["big"]["frontends"][0]
    frontend["hostname"] = "192.0.2.77"  # an address of nobody
    ended = run(tmp_path, content, "--check", "--cluster", "big")
    assert ended.returncode == 0, ended.stdout
    assert "'192.0.2.77': is not this machine" in ended.stdout
    assert "sbatch" not in ended.stdout.partition("# Submitted with")[2][10:]
    frontend["hostname"] = "127.0.0.1"
    ended = run(tmp_path, content, "--check", "--cluster", "big")
    assert "'127.0.0.1': is this machine, but local_cluster does not" in ended.stdout


def test_a_command_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch system that does not answer costs ten seconds, and here one."""
    left = tmp_path / "left"
    (tmp_path / "sinfo").write_text(
        f"#!/bin/sh\nsleep 1000 & echo $! $$ >{left}\nwait\n"
    )
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(batch, "SECONDS", 1.0)
    findings = Findings()
    batch.ask(findings, batch.Job("slurm", "#!/bin/sh\n", None))
    said = "The batch system has not answered: sinfo took longer than 1 s"
    assert findings.warnings == [said]
    assert findings.exit_code() == 0
    pids = list(map(int, left.read_text().split()))
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), "nothing is left", 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(
    ("options", "said"),
    [("size=1m", "1 MB are free"), ("size=1g,nr_inodes=20", "19 more files")],
)
def test_a_full_disk(tmp_path: Path, options: str, said: str) -> None:
    """Without room the services would start, and soon fail."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        content = clusters(folder, "local")
        ended = run(tmp_path, content, "--check", "--cluster", "big")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert ended.returncode == 0
    assert said in ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--check"],
        ["--check", "--dry-run", "--cluster", "x"],
        ["--cluster", "x"],
        ["--check", "--queue", "x"],
        ["distributed::LocalCluster", "--check", "--cluster", "x"],
        ["--check", "--cluster", "x", "--port-range", "2000", "3000"],
    ],
)
def test_usage(tmp_path: Path, arguments: list[str]) -> None:
    assert run(tmp_path, {}, *arguments).returncode == 2


def test_parameters_in_a_file(tmp_path: Path) -> None:
    """--check without clusters.yaml, for a class of a site or another batch system."""
    file = tmp_path / "queue.json"
    file.write_text('{"cores": 0, "walltime": "1h", "memory": "1GB"}')
    arguments = ("--check", "--parameters", str(file), "--port-range", "1024", "65535")
    ended = run(tmp_path, {}, "dask_jobqueue::PBSCluster", *arguments)
    assert ended.returncode == 3
    assert "- cores = 0: allowed is" in ended.stdout
