"""A job executes in the process of one that waits: neither meets what is the other's.

Each pair is a job that does something, calls, and says what it finds; and a guest that
would hurt it, and is in its process where that is possible.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from helpers.patient_jobs import running, starts
from helpers.polling import wait_until
from helpers.pools import SOON
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient
from seamless_dask.pool.processes import Processes

pytestmark = pytest.mark.cluster


def host(path: str, before: str, after: str) -> Any:
    """Execute some code, call, execute more; return what it calls `found`."""
    import os

    from seamless.transformer import direct

    def nested(path):
        import os
        import time

        with open(f"{path}/nested", "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(f"{path}/answer"):
            time.sleep(0.02)
        return 1

    names: dict[str, Any] = {"path": path}
    exec(before, names)
    with open(f"{path}/host", "a") as file:
        file.write(f"{os.getpid()}\n")
    direct(nested)(path)
    exec(after, names)
    return names["found"]


def guest(path: str, program: str) -> Any:
    """Execute some code, then wait for a file."""
    import os
    import time

    names: dict[str, Any] = {"path": path}
    exec(program, names)
    with open(f"{path}/guest", "a") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(f"{path}/go"):
        time.sleep(0.02)
    return names.get("found", "nothing")


class Pair:
    """What the two do; `lent` says whether the guest may have the host's process."""

    def __init__(
        self, host: tuple[str, str, Any], guest: tuple[str, Any], *, lent: bool
    ) -> None:
        self.before, self.after, self.found = host
        self.program, self.found_by_guest = guest
        self.lent = lent


SEEDED = """
import random
random.seed(5)
"""
DRAWS = """
import time
drawn = []
for _ in range(20):
    time.sleep(0.005)
    drawn.append(random.random())
alone = random.Random(5)
found = drawn == [alone.random() for _ in range(20)]
"""

PAIRS = {
    "threads of the guest": Pair(
        (SEEDED, DRAWS, True),
        (
            """
            import random, threading, time
            def disturb():
                for _ in range(500):
                    random.seed(0)
                    time.sleep(0.005)
            threading.Thread(target=disturb, daemon=True).start()
            """,
            "nothing",
        ),
        lent=True,
    ),
    "threads that nobody knows": Pair(
        (SEEDED, DRAWS, True),
        (
            """
            import _thread, random, time
            def disturb():
                for _ in range(500):
                    random.seed(0)
                    time.sleep(0.005)
            _thread.start_new_thread(disturb, ())
            """,
            "nothing",
        ),
        lent=True,
    ),
    "children of the host": Pair(
        (
            "import subprocess\nchild = subprocess.Popen(['sleep', '100'])",
            "found = child.poll() is None\nchild.kill()\nchild.wait()",
            True,
        ),
        (
            """
            import psutil
            children = psutil.Process().children()
            for child in children:
                child.kill()
            found = len(children)
            """,
            0,
        ),
        lent=False,
    ),
    "exit codes for the host": Pair(
        (
            "import subprocess\nchild = subprocess.Popen(['sh', '-c', 'exit 7'])",
            "found = child.wait()",
            7,
        ),
        (
            """
            import os
            try:
                found = os.wait()
            except ChildProcessError:
                found = "no child"
            """,
            "no child",
        ),
        lent=False,
    ),
    "children of the guest": Pair(
        ("", "import psutil\nfound = len(psutil.Process().children())", 0),
        ("import subprocess\nsubprocess.Popen(['sleep', '100'])", "nothing"),
        lent=True,
    ),
    "locks of files": Pair(
        (
            "import fcntl\nfile = open(f'{path}/lock', 'w')\nfcntl.lockf(file, 2 | 4)",
            "found = True",
            True,
        ),
        (
            """
            import fcntl
            with open(f"{path}/lock", "w") as file:
                try:
                    fcntl.lockf(file, 2 | 4)
                    found = "taken"
                except OSError:
                    found = "held"
            """,
            "held",
        ),
        lent=False,
    ),
    "a module that is none": Pair(
        (
            "import sys\nsys.modules['pandas'] = None",
            "found = 'pandas' in sys.modules",
            1,
        ),
        ("import sys\nfound = sys.modules.get('pandas', 0) is None", False),
        lent=True,
    ),
    "environment and directory": Pair(
        (
            "import os\nos.environ['A'] = '1'\nos.chdir(path)",
            "found = [os.environ['A'], os.getcwd() == path]",
            ["1", True],
        ),
        (
            "import os\nfound = os.environ.get('A', 0)\nos.environ['A'] = '2'\nos.chdir('/')",
            0,
        ),
        lent=True,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_neither_meets_what_is_the_others(
    group: Processes,
    tmp_path: Path,
    name: str,
) -> None:
    """While the host waits, and after the guest has ended."""
    pair = PAIRS[name]
    path = str(tmp_path)
    first = delayed(host)(path, textwrap.dedent(pair.before), pair.after)
    first.start()
    process = running(tmp_path, "host")
    running(tmp_path, "nested")
    second = delayed(guest)(path, textwrap.dedent(pair.program))
    second.start()
    assert (running(tmp_path, "guest") == process) == pair.lent
    (tmp_path / "go").touch()
    found = second.run()
    (tmp_path / "answer").touch()
    assert (first.run(), found) == (pair.found, pair.found_by_guest)
    assert len(starts(tmp_path, "nested")) == 1


def test_one_that_waits_for_a_lock_of_the_other_begins_elsewhere(
    group: Processes,
    tmp_path: Path,
) -> None:
    """The host holds a lock of Python across its call, and the guest wants it."""
    path = str(tmp_path)
    take, give = (
        f"import logging\nlogging._lock.{do}()" for do in ("acquire", "release")
    )
    first = delayed(host)(path, take, f"{give}\nfound = 1")
    first.start()
    process = running(tmp_path, "host")
    running(tmp_path, "nested")
    logs = "import logging\nlogging.getLogger('other').setLevel(10)\nfound = 2"
    second = delayed(guest)(path, f"open(path + '/begun', 'a').close()\n{logs}")
    second.start()
    wait_until((tmp_path / "begun").exists, "the guest begins", SOON)
    (tmp_path / "answer").touch()
    assert first.run() == 1
    (tmp_path / "go").touch()
    assert second.run() == 2
    assert running(tmp_path, "guest") != process


# -- without another job ---------------------------------------------------------------


def returning_thread(number: int) -> int:
    import threading
    import time

    class Returning(threading.Thread):
        def run(self) -> None:
            time.sleep(1000)

        def join(self) -> int:  # type: ignore[override]
            super().join()
            return number

    Returning(daemon=True).start()
    return number


def forked_child_of_a_server(number: int) -> int:
    import multiprocessing
    import os
    import time

    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        pool.map(abs, [-1])
    if os.fork() == 0:
        time.sleep(1000)
        os._exit(0)
    return number


def storm(number: int) -> int:
    import threading
    import time

    end = time.monotonic() + 2

    def start() -> None:
        while time.monotonic() < end:
            threading.Thread(target=time.sleep, args=(0.001,)).start()

    threading.Thread(target=start, daemon=True).start()
    time.sleep(0.1)
    return number


def keeps_the_lock_of_logging(number: int) -> int:
    import logging

    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]
    vars(logging)["_lock"].acquire()
    return number


def exit_codes(number: int) -> list[int]:
    import os
    import sys

    codes = []
    for how in ("exit", "raise", "text"):
        pid = os.fork()
        if pid == 0:
            if how == "exit":
                sys.exit(number)
            if how == "text":
                sys.exit("text")
            raise ValueError(how)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return codes


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (returning_thread, 5),
        (forked_child_of_a_server, 5),
        (storm, 5),
        (keeps_the_lock_of_logging, 5),
        (exit_codes, [5, 1, 1]),
    ],
)
def test_however_untidy_it_has_its_result(
    dummy: SeamlessDaskClient, function: Any, expected: Any
) -> None:
    """What the code leaves behind costs the process, not the result."""
    assert delayed(function)(5).run() == expected


def test_a_group_of_processes_is_not_that_of_the_worker(
    dummy: SeamlessDaskClient,
) -> None:
    """So a transformation cannot end others by a signal to its own group."""

    def groups(number):
        import os

        return [os.getpgid(0) == os.getpid(), number]

    assert delayed(groups)(3).run() == [True, 3]
