"""Builds one compiled module many times at once; a script of `test_compiling`.

Processes are forked from one that has seamless-transformer loaded, as those of a Dask
worker are.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from seamless_transformer import compiler

from seamless_dask.child import compiling

logging.basicConfig()


def definition(salt: str) -> dict[str, Any]:
    """Return what seamless-transformer passes for a C source."""
    code = f"static int n = 40; /* {salt} */ int next(int a) {{ return n += a; }}"
    return {
        "type": "compiled",
        "target": "profile",
        "link_options": [],
        "public_header": {"language": "c", "code": "int next(int a);"},
        "objects": {"main": {"language": "c", "code": code}},
    }


def build(salt: str) -> int:
    """Build the module and return what its function does."""
    here = os.getcwd()
    module = compiler.build_compiled_module(definition(salt))
    assert os.getcwd() == here, (os.getcwd(), here)
    value: int = module.lib.next(2)
    return value


def in_threads(n: int, salt: str) -> None:
    """Build in `n` threads of this process; the module is the same for all."""
    values: list[int] = []
    start = threading.Barrier(n)

    def run() -> None:
        start.wait()
        values.append(build(salt))

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(values) == [42 + 2 * i for i in range(n)], values


def in_processes(n: int, folder: Path, salt: str) -> None:
    """Build in `n` processes; each has a module, and static state, of its own."""
    ready, go = os.pipe()
    children = []
    for _ in range(n):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)  # until the last end is closed
            compiling.install(folder)
            value = build(salt)
            os._exit(0 if value == 42 else 1)
        children.append(child)
    os.close(go)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(ready)
    assert codes == [0] * n, codes


if __name__ == "__main__":
    mode, n, folder, salt = sys.argv[1:]
    if mode == "processes":
        in_processes(int(n), Path(folder), salt)
    else:
        compiling.install(Path(folder))
        in_threads(int(n), salt)
