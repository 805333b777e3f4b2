"""What other users of the machine, and other machines, can reach of a cluster."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.config
import psutil
import pytest
from distributed import Client, Scheduler
from distributed.comm import connect
from distributed.security import Security
from helpers.certificates import (
    Pair,
    configuration,
    needs_openssl,
)
from helpers.wrapper_process import WrapperProcess

from seamless_dask import SeamlessDaskClient
from seamless_dask.cluster import private_directories
from seamless_dask.storage.shared_memory import SharedMemory
from seamless_dask.wrapper.dry_run import dry_run
from seamless_dask.wrapper.jobs import logs as job_logs
from seamless_dask.wrapper.jobs.queues import Queue
from seamless_dask.wrapper.jobs.submission import Submitter
from seamless_dask.wrapper.settings.parameters import read_parameters
from seamless_dask.wrapper.settings.security import (
    directory_for_workers,
    tls_problems,
    warn_of_others,
)

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="acts as another user")
SECRET = "rosebud-4711"


def as_nobody(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script as a user who has no rights at all."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *map(str, arguments)],
        user="nobody",
        group=pwd.getpwnam("nobody").pw_gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """A directory that others can look into, unlike those of pytest."""
    directory = Path(tempfile.mkdtemp(prefix="seamless-security-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def shared(directory: Path) -> Path:
    """Make a directory like /tmp, where somebody was first to take the names of Dask."""
    directory.mkdir()
    directory.chmod(0o1777)
    if os.getuid() == 0:
        script = 'cd "$1"; mkdir "$2" "$2-0"; chmod 777 "$2" "$2-0"'
        assert not as_nobody(script, directory, private_directories.NAME).returncode
    return directory


# --- one cluster, as anybody would start it


@pytest.fixture(scope="module")
def wrapper(open_directory: Path) -> Iterator[WrapperProcess]:
    parameters = {
        "interactive": True,
        "tmpdir": str(shared(open_directory / "tmp")),
        "job_script_prologue": f"export TOKEN={SECRET}",
        "extra_dask_config": {"site": {"token": SECRET}},
    }
    with WrapperProcess(open_directory, parameters) as wrapper:
        wrapper.until_running()
        yield wrapper


@pytest.fixture(scope="module")
def client(wrapper: WrapperProcess) -> Iterator[Client]:
    with Client(wrapper.address(), timeout="30s", set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        SeamlessDaskClient(client, worker_plugin_workers=1)
        yield client


@pytest.fixture(scope="module")
def processes(wrapper: WrapperProcess, client: Client) -> list[psutil.Process]:
    """All processes of the cluster, those of Seamless included."""
    return [psutil.Process(wrapper.process.pid), *wrapper.below()]


@pytest.mark.cluster
def test_everything_listens_on_the_host_that_was_asked_for(
    processes: list[psutil.Process],
) -> None:
    """Scheduler, dashboard, keeper of the worker, worker and its HTTP server."""
    connections = [
        connection for process in processes for connection in process.net_connections()
    ]
    listening = [each for each in connections if each.status == psutil.CONN_LISTEN]
    assert len(listening) >= 5
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
    sockets = {
        connection.laddr
        for process in processes
        for connection in process.net_connections("unix")
    }
    # Only in the private directory of a worker, by way of the worker itself.
    assert all(name.startswith("/proc/self/fd/") for name in sockets - {""})


@pytest.mark.cluster
def test_http_changes_nothing(wrapper: WrapperProcess) -> None:
    """Pages can be read; Dask's routes that end workers are not there."""

    def ask(method: str, path: str) -> int:
        url = f"http://127.0.0.1:{wrapper.status()['dashboard_port']}/{path}"
        body = b"{}" if method in ("POST", "PUT", "PATCH") else None
        request = urllib.request.Request(url, data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    for path in ("seamless/state.json", "seamless", "health", "metrics"):
        assert ask("GET", path) == 200, path
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert ask(method, path) == 405, (method, path)
    for path in ("retire_workers", "adaptive_target", "get_workers"):
        assert ask("POST", f"api/v1/{path}") == 404


@pytest.mark.cluster
def test_secrets_stay_in_the_status_file(
    wrapper: WrapperProcess, processes: list[psutil.Process]
) -> None:
    """Neither command lines, which all users see, nor the log tell them."""
    assert SECRET in wrapper.status_file.read_text()
    assert SECRET not in wrapper.output()
    for process in processes:
        assert SECRET not in " ".join(process.cmdline())
        assert SECRET not in " ".join(process.environ().values())


@pytest.mark.cluster
def test_log_says_who_else_can_connect(wrapper: WrapperProcess) -> None:
    """On loopback that is no warning, since most machines have one user."""
    (line,) = [
        line for line in wrapper.output().splitlines() if "docs/security" in line
    ]
    assert " INFO " in line and "Other users of this machine" in line


def _places(dask_worker: Any) -> dict[str, Any]:
    """Where the files of a worker are, and shared memory for one of its processes."""
    from seamless_dask.pool import pool

    manager = pool._pool_of_this_process._manager
    pointer = asyncio.run_coroutine_threadsafe(
        manager._allocate_pointer(10), manager.loop
    ).result(30)
    (scratch,) = Path(dask_worker.local_directory).glob("seamless-*/*")
    return {
        "directory": dask_worker.local_directory,
        "scratch": str(scratch),
        "path": sys.path,
        "pointer": pointer["key"],
        "memory": pointer["name"],
    }


def _release(key: str) -> None:
    from seamless_dask.pool import pool

    manager = pool._pool_of_this_process._manager
    asyncio.run_coroutine_threadsafe(
        manager._release_pointer(key), manager.loop
    ).result(30)


def _path() -> list[str]:
    return sys.path


@needs_root
@pytest.mark.cluster
def test_another_user_gets_nowhere(
    wrapper: WrapperProcess, client: Client, processes: list[psutil.Process]
) -> None:
    """Files, directories, shared memory and the environment of processes."""
    (places,) = client.run(_places).values()
    directory, scratch = Path(places["directory"]), Path(places["scratch"])
    memory = Path("/dev/shm", places["memory"].lstrip("/"))
    assert scratch.is_dir() and memory.exists()
    around = directory.parent
    logs = wrapper.status_file.parent / "logs"
    assert job_logs.make(logs)
    (logs / "job-1.log").write_text("output")
    pids = [process.pid for process in processes if process.is_running()]
    attempts = [
        *[('cat "$1"', path) for path in (wrapper.status_file, memory)],
        *[('cat "$1"', logs / "job-1.log"), ('ls "$1"', logs)],
        *[('echo x >> "$1"', path) for path in (wrapper.status_file, memory)],
        *[('ls "$1"', path) for path in (around, directory, scratch)],
        *[('touch "$1/json.py"', path) for path in (around, directory, scratch)],
        *[('mv "$1" "$1-away"', path) for path in (around, directory)],
        *[("cat /proc/$1/environ", pid) for pid in pids],
        *[("kill -0 $1", pid) for pid in pids],
    ]
    assert as_nobody('cat "$1"', wrapper.log).returncode == 0, "can do something"
    for script, target in attempts:
        assert as_nobody(script, target).returncode != 0, (script, target)
    client.run(_release, places["pointer"])


@needs_root
@pytest.mark.cluster
def test_directories_of_others_are_not_used(
    wrapper: WrapperProcess, client: Client
) -> None:
    """Dask would import what somebody else has put into them."""
    tmp = wrapper.status_file.parent / "tmp"
    hostile = [tmp / private_directories.NAME, tmp / f"{private_directories.NAME}-0"]
    for path in hostile:
        assert path.owner() == "nobody" and not list(path.iterdir())
    (worker,) = client.run(_path).values()
    (keeper,) = client.run(_path, nanny=True).values()
    for paths in (worker, keeper, client.run_on_scheduler(_path)):
        below = [path for path in paths if path.startswith(str(tmp))]
        assert below
        for path in below:
            assert not any(Path(path).is_relative_to(each) for each in hostile)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


# --- directories


def test_own_directory_is_closed_to_others(tmp_path: Path) -> None:
    """Also if it was there, as Dask makes it."""
    path = tmp_path / f"{private_directories.NAME}-{os.getuid()}"
    path.mkdir(mode=0o755)
    assert private_directories.make(str(tmp_path)) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_tmpdir_without_sticky_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Others could exchange even a directory that is closed to them."""
    for mode, warned in ((0o1777, False), (0o755, False), (0o777, True)):
        tmp_path.chmod(mode)
        caplog.clear()
        directory_for_workers(str(tmp_path))
        assert ("sticky bit" in caplog.text) is warned


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_only_looks_like_our_directory(tmp_path: Path, kind: str) -> None:
    """A link would let its owner choose where we write."""
    path = tmp_path / f"{private_directories.NAME}-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("")
    made = Path(private_directories.make(str(tmp_path)))
    assert made != path and not made.is_symlink()
    assert made.name.startswith(private_directories.NAME)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert not list((tmp_path / "elsewhere").iterdir())


def test_directory_of_a_worker_is_protected(tmp_path: Path) -> None:
    """Others may not write into the one around it, if it is ours."""
    worker = tmp_path / "worker-1"
    worker.mkdir()
    tmp_path.chmod(0o777)
    private_directories.protect(str(worker))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@needs_root
def test_worker_in_a_directory_of_somebody_else(open_directory: Path) -> None:
    """It must not start there."""
    around = shared(open_directory / "node") / private_directories.NAME
    link = around.parent / "link"
    ours = open_directory / "ours"
    ours.mkdir()
    assert not as_nobody('ln -s "$1" "$2"', ours, link).returncode
    for place in (around, link):
        worker = place / "worker-1"
        worker.mkdir()
        with pytest.raises(private_directories.NotPrivate, match=f"{place} .* tmpdir"):
            private_directories.protect(str(worker))


def test_job_script_is_for_our_eyes_only(tmp_path: Path) -> None:
    """It can hold secrets of its user, and batch systems run what is in it."""
    from dask_jobqueue.slurm import SLURMJob

    submit = tmp_path / "submit"
    submit.write_text(
        "#!/bin/sh\n"
        f'echo "$1" > {tmp_path}/name; stat -c %a "$1" > {tmp_path}/mode\n'
        f'grep -q {SECRET} "$1" && echo "Submitted batch job 7"\n'
    )
    submit.chmod(0o700)
    prologue = [f"export TOKEN={SECRET}"]
    spec = {
        "cls": type("Job", (SLURMJob,), {"submit_command": str(submit)}),
        "options": {"cores": 1, "memory": "1GB", "job_script_prologue": prologue},
    }
    scheduler = SimpleNamespace(address="tcp://127.0.0.1:1")
    cluster: Any = SimpleNamespace(new_spec=spec, scheduler=scheduler)
    queue = Queue(query=(), parse=lambda text: {}, cancel=(), system="slurm")
    assert asyncio.run(Submitter(cluster, queue).submit([])) == "7"
    assert (tmp_path / "mode").read_text() == "600\n"
    assert not Path((tmp_path / "name").read_text().strip()).exists()


@needs_root
def test_shared_memory_is_private() -> None:
    """The path by which processes find it leads nobody else there."""
    memory = SharedMemory(b"secret")
    script = "import os, sys; os.setuid(12345); open(sys.argv[1], 'rb').read()"
    done = subprocess.run(
        [sys.executable, "-c", script, memory.path], capture_output=True, text=True
    )
    assert "PermissionError" in done.stderr


@pytest.mark.cluster
def test_reachable_scheduler_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """It listens on all addresses of the machine, without TLS."""

    async def start() -> None:
        address = {"port": 0, "dashboard_address": "127.0.0.1:0"}
        async with Scheduler(host="0.0.0.0", **address) as scheduler:
            warn_of_others(scheduler, read_parameters({})[0])

    with caplog.at_level(
        logging.INFO, logger="seamless_dask.wrapper.settings.security"
    ):
        asyncio.run(start())
    (record,) = [each for each in caplog.records if each.name.endswith(".security")]
    assert record.levelname == "WARNING"
    assert "listens on 0.0.0.0 without TLS" in record.getMessage()


# --- TLS


def credentials(certificate: str, key: str) -> Security:
    return Security(
        require_encryption=True,
        tls_ca_file=certificate,
        tls_client_cert=certificate,
        tls_client_key=key,
    )


async def shake_hands(address: str, security: Security, seconds: float) -> None:
    comm = await connect(address, seconds, **security.get_connection_args("client"))
    await comm.close()


@needs_openssl
@pytest.mark.cluster
def test_tls_admits_those_with_a_certificate(
    tmp_path: Path, certificates: dict[str, Pair]
) -> None:
    """Nobody else; and the launcher still finds the cluster well, by http."""
    ours, theirs = certificates["ours"], certificates["theirs"]
    parameters = {
        "pure_dask": True,
        "interactive": True,
        "tmpdir": str(tmp_path),
        "extra_dask_config": configuration(*ours),
    }
    with WrapperProcess(tmp_path, parameters) as wrapper:
        status = wrapper.until_running()
        address = wrapper.address().replace("tcp", "tls")
        with Client(
            address, security=credentials(*ours), timeout="30s", set_as_default=False
        ) as client:
            assert client.submit(sum, [1, 2]).result(timeout=60) == 3
        asyncio.run(shake_hands(address, credentials(*ours), 30))
        for target, security in (
            (address, credentials(*theirs)),
            (wrapper.address(), Security(require_encryption=False)),
        ):
            with pytest.raises(OSError):
                asyncio.run(shake_hands(target, security, 1))
        url = f"http://127.0.0.1:{status['dashboard_port']}/health"
        with urllib.request.urlopen(url, timeout=30) as response:
            assert response.status == 200
        assert f"scheduler at tls://127.0.0.1:{status['port']}" in wrapper.output()
        assert "Only clients with a certificate" in wrapper.output()
        key = Path(ours[1]).read_text().splitlines()[1]
        for process in wrapper.below():
            assert key not in " ".join(process.cmdline())
        assert key not in wrapper.output() + wrapper.status_file.read_text()


@pytest.fixture
def configuration_restored() -> Iterator[None]:
    """`dry_run` changes that of Dask."""
    before = copy.deepcopy(dask.config.config)
    yield
    dask.config.config.clear()
    dask.config.config.update(before)


@needs_openssl
@pytest.mark.usefixtures("configuration_restored")
def test_tls_in_job_scripts(tmp_path: Path, certificates: dict[str, Pair]) -> None:
    """They have the paths of files, which must be there on nodes as well."""
    cert, key = certificates["ours"]
    status = tmp_path / "status.json"
    parameters = {"pure_dask": True, "cores": 1, "memory": "1GB", "walltime": "1h"}
    parameters["extra_dask_config"] = configuration(cert, key)
    status.write_text(json.dumps(parameters))
    script = dry_run("dask_jobqueue::SLURMCluster", status, "tcp://1.2.3.4:5")
    assert "tls://1.2.3.4:5" in script and "tcp://" not in script
    assert f"--protocol tls:// --tls-ca-file {cert}" in script
    assert f"--tls-cert {cert} --tls-key {key}" in script
    assert "PRIVATE" not in script


FILES = "distributed.comm.tls"


@needs_openssl
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distributed.comm.require-encryption": False}, "has no effect unless"),
        ({f"{FILES}.ca-file": None}, f"{FILES}.ca-file: is needed since"),
        ({f"{FILES}.client.key": "key.pem"}, "'key.pem' (is not absolute"),
        ({f"{FILES}.worker.key": "/no/file"}, "'/no/file' (No such file"),
        ({f"{FILES}.worker.key": "-----BEGIN\nSECRET"}, "what is given is not"),
        ({"distributed.scheduler.dashboard.tls.cert": "/x"}, "by http"),
    ],
)
def test_what_is_wrong_with_tls(
    certificates: dict[str, Pair], change: dict[str, Any], message: str
) -> None:
    """Each problem names the key of the configuration; no secret is repeated."""
    extra = configuration(*certificates["ours"])
    parameters, _ = read_parameters({"extra_dask_config": {**extra, **change}})
    (problem,) = tls_problems(parameters)
    assert message in problem and "SECRET" not in problem


@needs_openssl
def test_key_that_others_can_read(
    tmp_path: Path, certificates: dict[str, Pair]
) -> None:
    """It is refused, as ssh does."""
    cert, key = certificates["ours"][0], shutil.copy(certificates["ours"][1], tmp_path)
    os.chmod(key, 0o644)
    parameters, _ = read_parameters({"extra_dask_config": configuration(cert, key)})
    problems = tls_problems(parameters)
    assert len(problems) == 3 and all("chmod 600" in each for each in problems)
