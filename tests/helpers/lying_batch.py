"""A batch system made of one program and a folder, which lies on demand.

The program is found in ``PATH`` under the names of the commands of SLURM, Grid Engine and
OAR. What it should do wrong is in the file ``lies.json`` of the folder:

``answer``       what the submission prints instead; ``{id}`` is the id of the job
``fail``         the submission fails with this text on the error output...
``accept``       ... after having accepted the job (true), or without (false)
``hang``         the submission accepts the job and does not come back
``linger``       every command leaves a process behind that keeps its output open
``exclusions``   this text is how a submission fails that excludes nodes
``hidden``       seconds for which an accepted job is not shown
``run``          whether jobs are executed; otherwise they wait
``pretend``      questions end with code 0, show no job, and have this text on the error output
``nodes``        names of the nodes on which they are executed, in turn
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMANDS = {
    "slurm": ("sbatch", "squeue", "scancel"),
    "sge": ("qsub", "qstat", "qdel"),
    "oar": ("oarsub", "oarstat", "oardel"),
}


class LyingBatch:
    """The batch system as tests see it."""

    def __init__(self, system: str, directory: Path, **lies: Any):
        self.system = system
        self.directory = directory
        (directory / "bin").mkdir(parents=True)
        for name in COMMANDS[system]:
            path = directory / "bin" / name
            command = [
                sys.executable,
                "-S",
                "-E",
                __file__,
                str(directory),
                system,
                name,
            ]
            path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
            path.chmod(0o755)
        (directory / "state.json").write_text("{}")
        (directory / "log").touch()
        self.lie(**lies)

    @property
    def environment(self) -> dict[str, str]:
        """With it, the commands are found."""
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.directory)}

    def lie(self, **lies: Any) -> None:
        """From now on, it does this wrong, and nothing else."""
        written = self.directory / "lies.tmp"
        written.write_text(json.dumps(lies))
        written.replace(self.directory / "lies.json")

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Jobs that have not ended."""
        with _state(self.directory) as state:
            return {
                job_id: job
                for job_id, job in state.items()
                if job["word"] in ("PD", "R")
            }

    def add_foreign(self) -> str:
        """A job of the user that has nothing to do with us."""
        with _state(self.directory) as state:
            state["77"] = _job("interactive", "")
        return "77"

    def calls(self, command: str) -> list[dict[str, Any]]:
        """How often a command was called: its arguments and its environment."""
        lines = (self.directory / "log").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call["command"] == command]

    def lingering(self) -> list[int]:
        """Processes that commands have left behind, and that are still there."""
        path = self.directory / "lingering"
        pids = map(int, path.read_text().split() if path.exists() else [])
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    def end_jobs(self) -> None:
        """Whatever runs is killed."""
        with _state(self.directory) as state:
            for job in state.values():
                _kill(job)


@contextmanager
def _state(directory: Path) -> Iterator[dict[str, Any]]:
    path = directory / "state.json"
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state = json.load(file)
        yield state
        file.seek(0)
        file.truncate()
        json.dump(state, file)


def _job(name: str, node: str, visible_at: float = 0.0) -> dict[str, Any]:
    return {"name": name, "node": node, "word": "PD", "at": visible_at, "pid": 0}


def _kill(job: dict[str, Any]) -> None:
    if job["pid"]:
        try:
            os.killpg(job["pid"], signal.SIGKILL)
        except ProcessLookupError:
            job["pid"] = 0


def submit(directory: Path, system: str, arguments: list[str]) -> int:
    lies = json.loads((directory / "lies.json").read_text())
    if system == "oar":
        text = arguments[-1]
        name = arguments[arguments.index("-n") + 1]
    else:
        text = Path(arguments[-1]).read_text()
        (name,) = re.findall(r"^#(?:SBATCH -J|\$ -N) (\S+)", text, re.MULTILINE)
    head = " ".join(arguments) + text
    excludes = bool(re.search(r"--exclude=|h=!\(|NOT IN", head))
    if lies.get("exclusions") and excludes:
        print(lies["exclusions"], file=sys.stderr)
        return 1
    if "fail" in lies and not lies.get("accept"):
        print(lies["fail"], file=sys.stderr)
        return 1
    with _state(directory) as state:
        job_id = str(1000 + len(state))
        nodes = lies.get("nodes", ["n1"])
        job = _job(
            name, nodes[len(state) % len(nodes)], time.time() + lies.get("hidden", 0)
        )
        state[job_id] = job
        if lies.get("run"):
            script = directory / f"{job_id}.sh"
            code = shlex.quote(str(directory / f"{job_id}.code"))
            script.write_text(f"trap 'echo $? >'{shlex.quote(code)} EXIT\n{text}\n")
            variables = {"SLURM_JOB_ID": job_id, "JOB_ID": job_id, "OAR_JOB_ID": job_id}
            with (directory / f"{job_id}.out").open("wb") as output:
                job["pid"] = subprocess.Popen(
                    ["bash", str(script)],
                    env={**os.environ, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                ).pid
            job["word"] = "R"
    if lies.get("hang"):
        time.sleep(1000)
    if "fail" in lies:
        print(lies["fail"], file=sys.stderr)
        return 1
    usual = {
        "slurm": "Submitted batch job {id}",
        "sge": 'Your job {id} ("x") has been submitted',
        "oar": "[ADMISSION RULE] 12 rules\nOAR_JOB_ID={id}",
    }[system]
    print(lies.get("answer", usual).replace("{id}", job_id))
    return 0


def refresh(directory: Path, state: dict[str, Any]) -> None:
    """Jobs whose script has ended have ended."""
    for job_id, job in state.items():
        code = directory / f"{job_id}.code"
        if job["word"] == "R" and code.exists() and code.read_text().strip():
            job["word"] = "CD" if code.read_text().strip() == "0" else "F"


def query(directory: Path, system: str, arguments: list[str]) -> int:
    line = " ".join(arguments)
    lies = json.loads((directory / "lies.json").read_text())
    if "pretend" in lies:
        print(lies["pretend"], file=sys.stderr)
        if system == "sge":
            print("<?xml version='1.0'?>\n<job_info><queue_info/></job_info>")
        return 0
    with _state(directory) as state:
        refresh(directory, state)
        shown = {i: job for i, job in state.items() if time.time() >= job["at"]}
    if system == "slurm":
        ids, name = re.search(r"--jobs=(\S+)", line), re.search(r"--name=(\S+)", line)
        for job_id, job in shown.items():
            if ids and job_id not in ids[1].split(","):
                continue
            if name and job["name"] != name[1]:
                continue
            last = f"|{job['name']}" if "%j" in line else ""
            node = job["node"] if job["word"] != "PD" else ""
            print(f"{job_id}|{job['word']}|{node}|None{last}")
        if ids and not set(ids[1].split(",")) & set(shown):
            print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
            return 1
    elif system == "sge":
        print("Hello 5\n<?xml version='1.0'?>\n<job_info><queue_info>")
        for job_id, job in shown.items():
            if job["word"] in ("PD", "R"):
                word = "qw" if job["word"] == "PD" else "r"
                print(
                    f"<job_list><JB_job_number>{job_id}</JB_job_number>"
                    f"<JB_name>{job['name']}</JB_name><state>{word}</state>"
                    f"<queue_name>all.q@{job['node']}</queue_name></job_list>"
                )
        print("</queue_info></job_info>")
    else:
        words = {"PD": "Waiting", "R": "Running", "CD": "Terminated"}
        wanted = re.findall(r"--job (\d+)", line)
        print(
            json.dumps(
                {
                    job_id: {
                        "state": words.get(job["word"], "Error"),
                        "name": job["name"],
                        "assigned_network_address": [job["node"]],
                        "events": [{"type": "FRAG_JOB_REQUEST"}]
                        if job["word"] == "CA"
                        else [],
                    }
                    for job_id, job in shown.items()
                    if not wanted or job_id in wanted
                }
            )
        )
    return 0


def cancel(directory: Path, system: str, arguments: list[str]) -> int:
    code = 0
    with _state(directory) as state:
        for job_id in arguments:
            if job_id not in state:
                print("error: Invalid job id specified", file=sys.stderr)
                code = 1
            else:
                _kill(state[job_id])
                state[job_id]["word"] = "CA"
    return code


def main() -> int:
    directory, system, command, *arguments = sys.argv[1:]
    place = Path(directory)
    with (place / "log").open("a") as log:
        call = {
            "command": command,
            "arguments": arguments,
            "environment": dict(os.environ),
        }
        log.write(json.dumps(call) + "\n")
    if json.loads((place / "lies.json").read_text()).get("linger"):
        child = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
        with (place / "lingering").open("a") as lingering:
            lingering.write(f"{child.pid}\n")
    act = (submit, query, cancel)[COMMANDS[system].index(command)]
    return act(place, system, arguments)


if __name__ == "__main__":
    sys.exit(main())
