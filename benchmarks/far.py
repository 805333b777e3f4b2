"""A driver that is far away from its cluster: ``python benchmarks/far.py [--quick]``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent / "examples"), str(_HERE)]

from far_link import NEAR, Link  # noqa: E402
from local_stack import LocalStack  # noqa: E402

DRIVER = _HERE / "far_driver.py"


class FarStack(LocalStack):
    """The real stack; its drivers run at the other end of a link if it has one."""

    #: where drivers run; None: beside the services
    link: Link | None = None

    def _write_files(self) -> None:
        super()._write_files()
        path = self.home / ".seamless" / "clusters.yaml"
        clusters = yaml.safe_load(path.read_text())
        for service in clusters["local"]["frontends"][0].values():
            service["network_interface"] = NEAR
        path.write_text(yaml.safe_dump(clusters))

    def start(
        self, script: str | Path, *args: object, show_stderr: bool = False
    ) -> subprocess.Popen[str]:
        """Start a driver script; see `LocalStack.start`."""
        if self.link is None:
            return super().start(script, *args, show_stderr=show_stderr)
        command = [sys.executable, str(script), *map(str, args)]
        return subprocess.Popen(
            self.link.command(*command),
            cwd=self.project_dir,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if show_stderr else subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

if __name__ == "__main__":
    with Link() as link, FarStack(project="far") as stack:
        print(stack.run(DRIVER, "warm", 5, 20).value)
        stack.link = link
        for delay in (0.0, 0.02, 0.2):
            link.set(delay=delay)
            if delay == 0.2:
                link.trace(Path("/tmp/far-trace"))
            r = stack.run(DRIVER, f"s{delay}", 5, 0 if delay else 20)
            print(delay, r.value, r.stderr[-600:])
