"""The directories for the output of batch jobs.

By default batch systems leave one or two files per job in the directory where the wrapper
was started. Instead each run of the wrapper has a directory of its own, in the home
directory because compute nodes must see it:
``~/.seamless-dask/logs/NAME OF THE STATUS FILE/TIME-PID``.

Dask's own setting ``jobqueue.SYSTEM.log-directory``, for example in the parameter
``extra_dask_config``, takes its place; such a directory is never cleaned up.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import dask.config

logger = logging.getLogger(__name__)

#: Runs with the same status file whose directories are kept.
KEPT_RUNS = 5


def configured(system: str) -> str | None:
    """The directory from Dask's configuration, if there is one."""
    directory = dask.config.get(f"jobqueue.{system}.log-directory", None)
    return None if directory is None else os.path.expanduser(str(directory))


def is_left_to_dask(system: str, directory: str) -> bool:
    """Whether dask_jobqueue's directives for output in this directory are right.

    It writes them without quotes, and on OAR none.
    """
    if system == "htcondor":
        return True
    return system != "oar" and not re.search(r"""[\s'"\\]""", directory)


def run_directory(service: str) -> Path | None:
    """The path of the directory for this run; None without a home directory.

    `service` is the name of the status file without its ending.
    """
    run = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        home = Path.home()
    except RuntimeError as error:  # a user id without a name, and no HOME
        logger.warning("No directory for the output of jobs: %s", error)
        return None
    return home / ".seamless-dask" / "logs" / service / run


def make(directory: Path) -> bool:
    """Create the directory, closed to others; return whether jobs can write into it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"is there room?")
    except OSError as error:
        logger.warning(
            "No directory for the output of jobs: %s cannot be used: %s",
            directory,
            error,
        )
        return False
    return True


def keep_script(directory: Path, cluster: Any) -> Path | None:
    """Write the script of a cluster's jobs beside their output.

    Returns its path, or None if it cannot be written; it is for information only.
    """
    path = directory / "job-script.sh"
    script = cluster.job_script()
    try:
        path.touch(mode=0o600)
        path.write_text(script, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        logger.warning("The script of the jobs cannot be kept as %s: %s", path, error)
        return None
    return path


def prune(directory: Path, *, success: bool) -> None:
    """Clean up at the end of a run, and after older ones.

    After a success no file of this run is kept. Otherwise its empty files are removed.
    Its directory is removed if it is empty. Of the other runs beside it only the latest
    are kept, `KEPT_RUNS` together with this one.
    """
    try:
        for path in directory.iterdir():
            if path.is_file() and (success or not path.stat().st_size):
                path.unlink()
        if not any(directory.iterdir()):
            directory.rmdir()
        # the names sort by time
        runs = sorted(path for path in directory.parent.iterdir() if path.is_dir())
        for run in runs[:-KEPT_RUNS]:
            shutil.rmtree(run)
    except OSError as error:
        logger.warning("Old output of jobs could not be removed: %s", error)


def output_directives(system: str, directory: Path) -> list[str]:
    """Directives that make the output of each job one file (on OAR two)."""
    path = shlex.quote(str(directory))
    known = {
        "slurm": [f"--output={path}/job-%j.log"],
        "sge": [f"-o {path}/"],  # dask_jobqueue says that errors go there as well
        # the job starts there, too: otherwise it would start in our $PWD, and fail if
        # that does not exist or is not writable on the node
        "oar": [f"-d {path}"],
        "pbs": ["-j oe", f"-o {path}/"],
        "moab": ["-j oe", f"-o {path}/"],
        "lsf": [f"-o {path}/job-%J.log"],
        "htcondor": [
            f"Output = {directory}/job-$(ClusterId).out",
            f"Error = {directory}/job-$(ClusterId).err",
            # jobs are killed at their end; without streaming the output would be lost
            "Stream_Output = True",
            "Stream_Error = True",
        ],
    }
    return known.get(system, [])
