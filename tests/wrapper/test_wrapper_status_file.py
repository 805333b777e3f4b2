"""The status file: waiting, writing whole, and leaving alone what is not ours."""

from __future__ import annotations

import json
import os
import platform
import queue
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from seamless_dask.wrapper.exit_codes import (
    StatusFileLost,
    StatusFileMissing,
    StatusFileUnusable,
)
from seamless_dask.wrapper.heartbeat import Heartbeat
from seamless_dask.wrapper.status_file import (
    StatusFile,
    declare_dead,
    start_time,
)

FIELDS = {"status": "starting", "parameters": {"cores": 1}, "x": [1, {"y": None}]}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "failed": {"message": ""},
    "running": {"port": 1, "dashboard_port": 2},
}


#: Numbers of the system call fallocate
FALLOCATE = {"x86_64": 285, "aarch64": 47}
#: Writes a file in place, while the file system cannot allocate space.
WITHOUT_FALLOCATE = """
import ctypes, errno, struct, sys
from pathlib import Path
from seamless_dask.wrapper.status_file import _overwrite

path, number = Path(sys.argv[1]), int(sys.argv[2])
# load the number; if it is that of fallocate: EOPNOTSUPP, else allow
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number)]
rules += [(0x06, 0, 0, 0x00050000 | errno.EOPNOTSUPP), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *x) for x in rules))
program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()  # seccomp
for size in (400, 300, 5000):
    _overwrite(path, {"a": "x" * size})
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "key.json"
    found.write_text(json.dumps({**FIELDS, "pid": os.getpid()}))
    return found


def test_waits_for_the_file(tmp_path: Path) -> None:
    """The file may appear after the wrapper has started."""
    path = tmp_path / "late.json"
    looks = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            path.write_text(json.dumps(FIELDS))

    assert StatusFile.wait(path, pause=pause).parameters == {"cores": 1}
    assert looks == [0.1] * 3


def test_gives_up_waiting(tmp_path: Path) -> None:
    """Without a file there is a sentence that names it."""
    with pytest.raises(StatusFileMissing, match="none.json: it does not exist"):
        StatusFile.wait(tmp_path / "none.json", 0.2)


def test_a_file_left_over_is_not_taken(path: Path) -> None:
    """A file of an earlier run is waited for to be replaced, and not changed."""
    path.write_text(json.dumps({**FIELDS, "status": "running"}))
    before = path.read_bytes()
    with pytest.raises(StatusFileMissing, match='"running"'):
        StatusFile.wait(path, 0.2)
    assert path.read_bytes() == before


def test_a_file_that_is_being_written(path: Path) -> None:
    """Half a file is read again."""
    path.write_text('{"status": "star')

    def pause(seconds: float) -> None:
        path.write_text(json.dumps(FIELDS))

    assert StatusFile.wait(path, pause=pause).fields == FIELDS


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "not valid JSON"), ("[]", "must hold a JSON object"), ("\xff", "JSON")],
)
def test_no_object(
    path: Path, content: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays unreadable is refused with a sentence."""
    monkeypatch.setattr("seamless_dask.wrapper.status_file.UNREADABLE_SECONDS", 0.3)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(StatusFileUnusable, match=reason):
        StatusFile.wait(path)


def test_parameters_missing(path: Path) -> None:
    """Parameters must be there and be an object."""
    with pytest.raises(StatusFileUnusable, match='no field "parameters"'):
        StatusFile(path, {}).parameters  # noqa: B018 - the property raises
    with pytest.raises(StatusFileUnusable, match="must be an object"):
        StatusFile(path, {"parameters": []}).parameters  # noqa: B018


def test_running_keeps_all_fields(path: Path) -> None:
    """The file is written whole, private, and with everything that was there."""
    StatusFile.wait(path).running(port=1, dashboard_port=2)
    fields = json.loads(path.read_text())
    assert fields.pop("start_time") == pytest.approx(time.time(), abs=1e6)
    assert fields == {
        **FIELDS,
        "pid": os.getpid(),
        "status": "running",
        "port": 1,
        "dashboard_port": 2,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_change_meanwhile_is_kept(path: Path) -> None:
    """Fields that somebody added after we read the file survive."""
    status_file = StatusFile.wait(path)
    path.write_text(json.dumps({**FIELDS, "pid": os.getpid(), "later": 1}))
    status_file.running(port=1, dashboard_port=2)
    assert json.loads(path.read_text())["later"] == 1


def test_failed_says_why(path: Path) -> None:
    """A failure carries its message."""
    StatusFile.wait(path).failed("no luck")
    fields = json.loads(path.read_text())
    assert (fields["status"], fields["error"]) == ("failed", "no luck")


def test_pid(path: Path) -> None:
    """A missing pid is added; a foreign one is kept, next to ours."""
    path.write_text(json.dumps(FIELDS))
    status_file = StatusFile.wait(path)
    assert status_file.foreign_pid() is None
    status_file.failed("")
    assert json.loads(path.read_text())["pid"] == os.getpid()

    path.write_text(json.dumps({**FIELDS, "pid": os.getppid()}))
    status_file = StatusFile.wait(path)
    assert status_file.foreign_pid() == os.getppid()
    status_file.failed("")
    fields = json.loads(path.read_text())
    assert (fields["pid"], fields["wrapper_pid"]) == (os.getppid(), os.getpid())


def test_touch(path: Path) -> None:
    """Touching changes the time and nothing else."""
    status_file = StatusFile.wait(path)
    os.utime(path, (0, 0))
    before = path.read_bytes()
    status_file.touch()
    assert path.stat().st_mtime > 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("action", ["touch", "remove", "failed", "running"])
def test_a_removed_file_stays_removed(path: Path, action: str) -> None:
    """Nothing that we do brings back a file that somebody removed."""
    status_file = StatusFile.wait(path)
    path.unlink()
    with pytest.raises(StatusFileLost, match="removed"):
        getattr(status_file, action)(**ARGUMENTS.get(action, {}))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("action", ["touch", "remove", "failed", "running"])
def test_the_file_of_another_is_left_alone(path: Path, action: str) -> None:
    """A file that names another process now is not changed."""
    status_file = StatusFile.wait(path)
    path.write_text(json.dumps({**FIELDS, "pid": 1}))
    before = path.read_bytes()
    with pytest.raises(StatusFileLost, match="belongs to process 1"):
        getattr(status_file, action)(**ARGUMENTS.get(action, {}))
    assert path.read_bytes() == before


def test_heartbeat_reports_the_loss(path: Path) -> None:
    """The heartbeat notices that the file is gone, once, and ends."""
    lost: queue.Queue[StatusFileLost] = queue.Queue()
    heartbeat = Heartbeat(StatusFile.wait(path), lost.put, seconds=0.01)
    heartbeat.start()
    path.unlink()
    assert "removed" in str(lost.get(timeout=30))
    assert lost.empty()
    assert not path.exists()


def test_claim(path: Path) -> None:
    """It names this process, and no earlier one."""
    stale = {"pid": os.getpid(), "wrapper_pid": 1, "start_time": 1.5}
    path.write_text(json.dumps({**FIELDS, **stale}))
    StatusFile.wait(path).claim()
    fields = json.loads(path.read_text())
    assert fields == {**FIELDS, "pid": os.getpid(), "start_time": start_time()}


def test_a_write_that_had_an_effect_although_it_failed(path: Path) -> None:
    """The file is still ours. NFS may report an error for a rename that was done."""
    path.write_text(json.dumps(FIELDS))
    status_file = StatusFile.wait(path)
    StatusFile.wait(path).claim()  # as such a write leaves it
    status_file.claim()
    path.write_text(json.dumps({**FIELDS, "pid": 1}))
    with pytest.raises(StatusFileLost, match="belongs to process 1"):
        status_file.check()


def test_a_read_error_while_a_process_is_declared_dead(path: Path) -> None:
    """It is tried again."""
    aside, loop = path.with_suffix(".aside"), path.with_suffix(".loop")
    os.link(path, aside)
    loop.symlink_to(path)
    loop.replace(path)
    back = threading.Timer(0.3, aside.replace, [path])
    back.start()
    declare_dead(path, os.getpid(), 1.5, "killed")
    back.join()
    assert json.loads(path.read_text())["error"] == "killed"


@pytest.mark.skipif(
    platform.machine() not in FALLOCATE, reason="number of the system call unknown"
)
def test_in_place_where_space_cannot_be_allocated(path: Path) -> None:
    """As on older NFS: the C library allocates by reading and writing."""
    number = FALLOCATE[platform.machine()]
    subprocess.run(
        [sys.executable, "-c", WITHOUT_FALLOCATE, str(path), str(number)],
        check=True,
        timeout=60,
    )
    assert json.loads(path.read_text()) == {"a": "x" * 5000}
