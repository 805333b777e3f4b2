"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil


def describe() -> dict[str, Any]:
    """Cores, processor, memory (bytes), load and the time, as JSON."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def in_words(machine: dict[str, Any]) -> str:
    """One line for the head of a table."""
    load = ", ".join(f"{value:.2f}" for value in machine["load_average"])
    return (
        f"{machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_bytes'] / 1e9:.0f} GB, Python {machine['python']}, "
        f"load {load}, {machine['time']}"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return models[0].strip() if models else platform.processor()
