"""Transformations that say where they run and wait for a file, for tests."""

from __future__ import annotations

from pathlib import Path

from helpers.polling import wait_until


def patient(path: str, name: str) -> str:
    """Say in which process this runs, then wait for a file."""
    import os
    import time

    with open(f"{path}/{name}", "a") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(f"{path}/go"):
        time.sleep(0.02)
    return name


def starts(path: Path, name: str) -> list[int]:
    """Return the processes in which a transformation has started, one per start."""
    file = path / name
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def running(path: Path, name: str, times: int = 1) -> int:
    def enough() -> list[int]:
        found = starts(path, name)
        return found if len(found) >= times else []

    return wait_until(enough, f"{name} runs")[-1]
