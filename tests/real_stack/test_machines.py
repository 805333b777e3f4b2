"""Machines that have no room, users without a name, folders with unusual names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from helpers.wrapper_process import LOCAL, WrapperProcess, look_at_worker, wait_for

from seamless_dask.status.address import NotFound, resolve
from seamless_dask.wrapper import status_file
from seamless_dask.wrapper.dry_run import dry_run
from seamless_dask.wrapper.jobs import commands, submission
from seamless_dask.wrapper.jobs import logs as job_logs

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounts file systems")
SLURM = "dask_jobqueue::SLURMCluster"
ODD = "Ünï cödé & 'sons'"
BATCH = {"cores": 1, "pure_dask": True, "memory": "1GB", "walltime": "01:00:00"}


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Path]:
    """A small file system."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs"]
    done = subprocess.run([*command, directory], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory: Path) -> None:
    """Leave no room for data; files without content can be made."""
    with (directory / "data").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def use_up_inodes(directory: Path) -> None:
    """Let no file be made."""
    number = 0
    try:
        while True:
            (directory / f"file{number}").touch()
            number += 1
    except OSError:
        return


FULL = pytest.mark.parametrize(
    ("options", "exhaust"),
    [(["size=256k"], fill), (["size=10m", "nr_inodes=50"], use_up_inodes)],
    ids=["no room", "no inodes"],
)


# --- full file systems


@needs_root
@FULL
def test_status_file_where_nothing_can_be_made(tmp_path, options, exhaust) -> None:
    """It is written in place, whole, also if it gets shorter."""
    with mounted(tmp_path / "home", *options) as home:
        path = home / "status.json"
        path.write_text(json.dumps({"status": "starting", "parameters": {"a": "b"}}))
        exhaust(home)
        file = status_file.StatusFile.wait(path, 0)
        file.running(port=1, dashboard_port=2)
        assert json.loads(path.read_text())["status"] == "running"
        file.news(jobs=["1"], submission_error="x" * 500)
        file.news(jobs=[], submission_error="")
        fields = json.loads(path.read_text())
        assert (fields["jobs"], fields["port"]) == ([], 1)
        assert fields["parameters"] == {"a": "b"}
        file.failed("no luck")
        assert json.loads(path.read_text())["error"] == "no luck"
        assert [each.name for each in home.glob("*status*")] == ["status.json"]
        assert not list(home.glob(".*"))
        file.remove()
        assert not path.exists()


@needs_root
def test_status_file_that_cannot_grow(tmp_path) -> None:
    """It stays as it was, and is written once there is room."""
    with mounted(tmp_path / "home", "size=64k") as home:
        path = home / "status.json"
        path.write_text(json.dumps({"status": "starting", "parameters": {}}))
        fill(home)
        file = status_file.StatusFile.wait(path, 0)
        before = path.read_bytes()
        with pytest.raises(OSError, match="No space left"):
            file.news(jobs=[], submission_error="x" * 5000)
        assert path.read_bytes() == before
        (home / "data").unlink()
        file.news(jobs=[], submission_error="x" * 5000)
        assert len(json.loads(path.read_text())["submission_error"]) == 5000


@pytest.mark.cluster
@needs_root
@FULL
def test_clusters_on_a_full_home(tmp_path, options, exhaust) -> None:
    """Local or on a batch system, it runs; the log says what could not be written."""
    for cluster, parameters in (
        (SLURM, BATCH),
        (LOCAL, {"cores": 1, "pure_dask": True}),
    ):
        directory = tmp_path / cluster.rpartition(":")[2]
        with mounted(directory / "home", *options) as home:
            environment = {"HOME": str(home)}
            content = json.dumps({"status": "starting", "parameters": parameters})
            (home / "status.json").write_text(content)
            exhaust(home)
            with WrapperProcess(
                directory, parameters, cluster=cluster, environment=environment
            ) as wrapper:
                wrapper.until_running()
                with Client(wrapper.address(), set_as_default=False) as client:
                    if cluster == LOCAL:
                        assert client.submit(int, 1).result(60) == 1
                    assert wrapper.status()["status"] == "running"
                if cluster == SLURM:
                    assert "No directory for the output of jobs" in wrapper.output()
                    unreachable = "jobs on other machines cannot reach"
                    assert unreachable in wrapper.output()
            assert wrapper.process.returncode == 0


@pytest.mark.cluster
@needs_root
def test_status_file_in_a_full_home(tmp_path) -> None:
    """The cluster runs, and says so in place or as soon as there is room."""
    with mounted(tmp_path / "home", "size=64k") as home:
        parameters = {"cores": 1, "pure_dask": True}
        # Nothing fits into the last block of this one.
        fields = {"status": "starting", "parameters": parameters, "pad": ""}
        fields["pad"] = "x" * (4096 - len(json.dumps(fields)))
        with WrapperProcess(
            home, parameters, content=json.dumps(fields), environment={"HOME": "/"}
        ) as wrapper:
            fill(home)
            # The log has no room, either.
            address = None

            def look() -> Any:
                for connection in processes_of(wrapper):
                    if connection.status == "LISTEN":
                        return connection.laddr.port
                return None

            address = wait_for(look, "it listens")
            assert address
            (home / "data").unlink()
            assert wrapper.until_running()["pad"] == fields["pad"]


def processes_of(wrapper: WrapperProcess) -> list[Any]:
    import psutil

    return psutil.Process(wrapper.process.pid).net_connections()


@needs_root
def test_no_room_for_the_job_script(tmp_path, monkeypatch) -> None:
    """The submission has failed, with a reason, and is tried again like others."""

    class Job:
        def job_script(self) -> str:
            return "#!/bin/sh\n" * 1000

    with mounted(tmp_path / "tmp", "size=64k") as temporary:
        fill(temporary)
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        with pytest.raises(commands.CommandFailed, match="No space left on device"):
            with submission._job_file(Job()):
                raise AssertionError
        assert [path.name for path in temporary.iterdir()] == ["data"]


@needs_root
@FULL
def test_scripts_are_kept_where_that_works(tmp_path, caplog, options, exhaust) -> None:
    """It is a warning otherwise, whenever the room ends."""

    class Cluster:
        def job_script(self) -> str:
            return "ü" * 10_000

    with mounted(tmp_path / "home", *options) as home:
        logs = home / "logs"
        assert job_logs.make(logs)
        script = job_logs.keep_script(logs, Cluster())
        assert script is not None and script.read_text() == "ü" * 10_000
        assert script.stat().st_mode & 0o777 == 0o600
        script.unlink()
        exhaust(home)
        assert job_logs.keep_script(logs, Cluster()) is None
        assert "No space left on device" in caplog.text
        assert not job_logs.make(home / "others")
        job_logs.prune(logs, success=True)
        assert not logs.exists()


# --- names of folders


@pytest.fixture
def odd(tmp_path) -> dict[str, str]:
    """An environment in which every folder has blanks, quotes and letters such as ü."""
    root = tmp_path / ODD
    for name in ("home", "temporary"):
        (root / name).mkdir(parents=True)
    (root / "env").symlink_to(sys.prefix)
    return {
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "temporary"),
        "PYTHON": str(root / "env" / "bin" / "python"),
    }


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", [LOCAL, SLURM])
def test_folders_with_unusual_names(
    tmp_path, odd, cluster, request: pytest.FixtureRequest
) -> None:
    """Home, environment, temporary files, status file, modules and output of jobs."""
    modules = tmp_path / ODD
    (modules / "from_there.py").write_text("def name():\n    return __file__\n")
    environment = dict(odd)
    if cluster == SLURM:
        environment |= request.getfixturevalue("slurm").environment
    parameters = BATCH | {
        "tmpdir": str(tmp_path / "scrätch directory"),
        "interactive": True,
    }
    with WrapperProcess(
        modules,
        parameters,
        cluster=cluster,
        environment=environment,
        modules=modules,
        python=[odd["PYTHON"]],
    ) as wrapper:
        wrapper.until_running()
        with Client(wrapper.address(), set_as_default=False) as client:
            seen = client.submit(look_at_worker).result(60)
            assert seen["python"] == odd["PYTHON"]
            assert seen["directory"].startswith(parameters["tmpdir"])
            from_there = client.submit(lambda: __import__("from_there").name())
            assert from_there.result(60) == str(modules / "from_there.py")
        if cluster == SLURM:
            assert list(Path(odd["HOME"]).rglob("job-*.log")), wrapper.output()


def test_paths_in_job_scripts(tmp_path) -> None:
    """Variables and ~ keep their meaning, and nothing else has one."""
    for tmpdir, written in (
        ("/tmp", "/tmp"),
        ("/a b", '"/a b"'),
        ("$SCRATCH/a", '"$SCRATCH/a"'),
        ("~/a b", '~/"a b"'),
        ("~me/ü", '~me/"ü"'),
    ):
        file = tmp_path / "parameters.json"
        file.write_text(json.dumps({**BATCH, "tmpdir": tmpdir}))
        script = dry_run(SLURM, file, "tcp://1.2.3.4:5")
        assert f"--local-directory {written} " in script


SEAMLESS = """
import os, sys, tempfile
from seamless.transformer import direct
from seamless_dask import create_dummy_client

@direct
def where(big):
    import os, tempfile
    with tempfile.NamedTemporaryFile() as file:
        return [len(big), file.name, os.environ["TMPDIR"]]

if __name__ == "__main__":
    create_dummy_client(worker_threads=2, spawn_workers=1)
    length, name, directory = where("x" * 3_000_000)
    assert length == 3_000_000
    assert name.startswith(os.path.join(os.environ["TMPDIR"], "dask-scratch")), name
    assert name.startswith(directory)
    print("fine")
"""


@pytest.mark.cluster
@pytest.mark.parametrize("length", [20, 200])
def test_seamless_processes_in_unusual_folders(tmp_path, odd, length) -> None:
    """Also in one whose name is too long for the name of a socket."""
    script = tmp_path / ODD / "drîver script.py"
    script.write_text(SEAMLESS)
    temporary = Path(odd["TMPDIR"], "x" * length)
    temporary.mkdir()
    done = subprocess.run(
        [odd["PYTHON"], script],
        env={**os.environ, **odd, "TMPDIR": str(temporary)},
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == "fine\n", done.stderr
    # All that is left is Dask's own directory, for the next time.
    left = [path for path in temporary.rglob("*") if path.is_file()]
    assert {path.suffix for path in left} <= {".lock"}, left


# --- users without a name


def nameless(tmp_path: Path) -> list[str]:
    """How to start Python as a user id that has no name, with the rights of this user."""
    command = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no user namespaces: {done.stderr.decode()}")
    variables = ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME")
    options = [f"--unset={name}" for name in variables]
    return ["env", *options, *command, sys.executable]


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", [LOCAL, SLURM])
def test_a_user_id_without_a_name(tmp_path, cluster) -> None:
    """As in a container: no name, no home directory."""
    python = nameless(tmp_path)
    parameters = {**BATCH, "tmpdir": str(tmp_path)}
    with WrapperProcess(
        tmp_path, parameters, cluster=cluster, python=python
    ) as wrapper:
        wrapper.until_running()
        with Client(wrapper.address(), set_as_default=False) as client:
            if cluster == LOCAL:
                assert client.submit(os.getuid).result(60) == 54321
            else:
                wait_for(
                    lambda: "No directory for the output of jobs" in wrapper.output(),
                    "the warning",
                )
        assert "the user with the id 54321" in wrapper.output()


@pytest.mark.cluster
def test_asking_for_the_status_without_a_home(tmp_path) -> None:
    """It needs none where the address is known."""
    python = nameless(tmp_path)
    for what, said in ([], "home directory"), (["~/x"], "home directory"):
        done = subprocess.run(
            [*python, "-m", "seamless_dask.status", *what],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode
        assert said in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(NotFound):
        resolve("~nobody-has-this-name/x")
    assert resolve("localhost:1", home=None) == "tcp://localhost:1"


# --- addresses


@pytest.mark.cluster
def test_a_cluster_on_ipv6(tmp_path) -> None:
    """Its status file and its log name addresses that work."""
    parameters = {"cores": 1, "pure_dask": True}
    with WrapperProcess(tmp_path, parameters, host="::1") as wrapper:
        wrapper.until_running()
        address = resolve(str(wrapper.status_file))
        assert address == wrapper.address()
        with Client(address, set_as_default=False) as client:
            assert client.submit(int, 1).result(60) == 1
        assert "Other users of this machine" in wrapper.output()


@pytest.mark.cluster
@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::"])
def test_hosts_with_several_addresses(tmp_path, host) -> None:
    """A name may stand for more than one, and a cluster may listen on all."""
    parameters = {"cores": 1, "pure_dask": True}
    with WrapperProcess(tmp_path, parameters, host=host) as wrapper:
        status = wrapper.until_running()
        reached = "127.0.0.1" if host != "::" else "[::1]"
        address = f"tcp://{reached}:{status['port']}"
        with Client(address, set_as_default=False) as client:
            assert client.submit(int, 1).result(60) == 1


# --- short of room or memory while transformations run


SCARCE = """
import os, signal, sys, time
from pathlib import Path
from seamless.transformer import direct
from seamless_dask import create_dummy_client
from seamless_dask.pool.pool import Pool

@direct
def work(number, memory=0):
    import os
    hog = bytearray(memory)
    hog[:: 4096] = b"x" * len(hog[:: 4096])
    return [number, os.getpid()]

def attempt(*arguments):
    try:
        work(*arguments)
    except Exception as error:
        print(str(error).strip().replace("\\n", " "), flush=True)

def no_inodes(folder):
    pid = work(1)[1]
    for number in range(10_000):
        try:
            (folder / f"file{number}").touch()
        except OSError:
            break
    os.kill(pid, signal.SIGKILL)
    attempt(2)
    for number in range(10_000):
        (folder / f"file{number}").unlink(missing_ok=True)

def no_memory(_):
    attempt(3, 1_500_000_000)

if __name__ == "__main__":
    create_dummy_client(worker_threads=1, spawn_workers=1)
    globals()[sys.argv[1]](Path(os.environ["TMPDIR"]))
    deadline = time.monotonic() + 60
    while True:  # it takes a moment until processes can be started again
        try:
            print(work(4)[0], flush=True)
            break
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
"""


def scarce(tmp_path: Path, what: str, directory: Path, prefix: list[str]) -> list[str]:
    """What the script prints: an error, and the result after it."""
    script = tmp_path / "scarce.py"
    script.write_text(SCARCE)
    done = subprocess.run(
        [*prefix, sys.executable, script, what],
        env={**os.environ, "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.cluster
@needs_root
def test_no_inodes_for_a_new_process(tmp_path) -> None:
    """The transformation fails and says why; later ones run."""
    with mounted(tmp_path / "tmp", "size=50m", "nr_inodes=200") as directory:
        error, result = scarce(tmp_path, "no_inodes", directory, [])
    assert "No Seamless process can be started" in error
    assert "No space left on device: '" in error
    assert result == "4"


@contextmanager
def memory_limit(size: int) -> Iterator[list[str]]:
    """A cgroup; how to start a process in it."""
    base, limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
    if not base.is_dir():
        base, limit = Path("/sys/fs/cgroup"), "memory.max"
    group = base / f"seamless-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(size))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no memory limit: {error}")
    try:
        enter = f"echo $$ > {group}/cgroup.procs; exec " + '"$@"'
        yield ["sh", "-c", enter, "sh"]
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "an empty group")
        group.rmdir()


@pytest.mark.cluster
@needs_root
def test_the_memory_limit_of_a_container(tmp_path) -> None:
    """The process of the transformation ends, not the worker with all others.

    The kernel ends the largest one. With the limit, it is by far the largest.
    """
    with memory_limit(1_000_000_000) as prefix:
        error, result = scarce(tmp_path, "no_memory", tmp_path, prefix)
    assert "was lost 3 times" in error
    assert "SIGKILL (by the kernel because memory was short" in error
    assert result == "4"


@pytest.mark.cluster
@needs_root
@pytest.mark.parametrize("options", [["size=1m"], ["size=1m", "ro"]])
def test_containers_without_shared_memory(tmp_path, options) -> None:
    """Inputs and results of any size go to and from the processes."""
    script = tmp_path / "large.py"
    script.write_text(LARGE_INPUTS)
    mount = f"mount -t tmpfs -o {','.join(options)} tmpfs /dev/shm && exec " + '"$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, script],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.stdout.split() == ["20000", "3000000", "100000000"], done.stderr


LARGE_INPUTS = """
from seamless.transformer import delayed
from seamless_dask import create_dummy_client

def make(size):
    return b"x" * size

def length(blob):
    return len(blob.content)

if __name__ == "__main__":
    create_dummy_client(worker_threads=1, spawn_workers=1)
    for size in (20_000, 3_000_000, 100_000_000):
        made, measured = delayed(make), delayed(length)
        made.celltypes.result = measured.celltypes.blob = "bytes"
        print(measured(made(size)).run(), flush=True)
"""
