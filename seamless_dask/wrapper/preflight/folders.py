"""Looks at folders and file systems: is there room, and can compute nodes see them?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

from ..clusters_file import Service
from ..settings.directory_checks import cannot_be_made
from .findings import Findings

#: File systems that several machines can mount at a time.
_SHARED = (
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "afs"),
    *("panfs", "wekafs", "glusterfs", "pvfs2", "orangefs", "gfs2", "ocfs2", "autofs"),
)
#: Folders that each machine has for itself, whatever their file system.
_OF_ONE_MACHINE = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root")
#: Room that a cluster should find, in bytes and in files.
LEAST_ROOM = 100 * 10**6
LEAST_FILES = 1000


def look_at_python(findings: Findings, conda: str | None) -> None:
    """Warn if jobs may not find the Python that would run the wrapper."""
    active = os.environ.get("CONDA_DEFAULT_ENV", "")
    if conda and conda != active:
        findings.warnings.append(
            f"conda = {conda!r}: the wrapper will run in that environment, and this check "
            f"runs in {active or sys.prefix!r}: what it says of Python is about the latter"
        )
    reason = local_to_machine(sys.executable)
    if reason:
        findings.warnings.append(
            f"Python = {sys.executable!r}: {reason}. Jobs run this very path, so "
            "compute nodes must see it; whether they do is a guess. Allowed is an environment in a folder "
            "that is the same on all of them"
        )


def local_to_machine(path: str) -> str:
    """Why other machines probably do not see a path; "" if they may."""
    real = os.path.realpath(path)
    leads = "" if real == os.path.abspath(path) else f"leads to {real!r}, which "
    for folder in _OF_ONE_MACHINE:
        for each, prefix in ((os.path.abspath(path), ""), (real, leads)):
            if Path(each).is_relative_to(folder):
                return f"{prefix}is below {folder}, which each machine has for itself"
    kinds = {
        each.mountpoint: each.fstype
        for each in psutil.disk_partitions(all=True)
        if Path(real).is_relative_to(each.mountpoint)
    }
    if not kinds:
        return ""
    mountpoint = max(kinds, key=len)
    kind = kinds[mountpoint]
    if kind in _SHARED or kind.startswith("fuse"):
        return ""
    return (
        f"{leads}is on a file system of the type {kind} (mounted at {mountpoint}), which other "
        "machines see only if it is exported to them"
    )


def look_at_services(findings: Findings, services: tuple[Service, ...]) -> None:
    """Check the folders of hashserver and database."""
    for service in services:
        if not service.folder:
            continue
        field = f"{service.name}.{service.field} = {service.folder!r}"
        folder = os.path.expanduser(str(service.folder))
        reason = cannot_be_made(folder, make=False) or _not_writable(folder)
        if reason:
            findings.problem(f"{field}: {reason}; allowed is a folder of your own")
        else:
            _look_at_room(findings, folder, field)


def look_at_log_folder(findings: Findings, folder: str | None, chosen: bool) -> None:
    """Check the folder for the output of jobs.

    Parameters
    ----------
    findings
        Gets the sentences.
    folder
        The folder, which may not exist yet; None: there is no home directory.
    chosen
        Whether Dask's configuration names it. If it cannot be made there, that has been
        reported.
    """
    if folder is None:
        return
    field = f"output of jobs = {folder!r}"
    if not chosen:
        reason = cannot_be_made(folder, make=False)
        if reason:
            findings.warnings.append(
                f"{field}: {reason}; jobs run all the same, and the batch system decides "
                "where their output goes"
            )
            return
    reason = local_to_machine(folder)
    if reason:
        findings.warnings.append(
            f"{field}: {reason}. If compute nodes do not see it, which is a guess, output "
            "of jobs stays there, or jobs fail. Allowed is a shared folder: "
            "jobqueue.SYSTEM.log-directory in extra_dask_config"
        )
    _look_at_room(findings, folder, field)


def _not_writable(folder: str) -> str:
    if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
        return "is not writable"
    return ""


def _look_at_room(findings: Findings, folder: str, field: str) -> None:
    existing = folder
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing) or "."
    try:
        found = os.statvfs(existing)
    except OSError as error:
        findings.warnings.append(f"{field}: its room is not known ({error.strerror})")
        return
    free = found.f_bavail * found.f_frsize
    if free < LEAST_ROOM:
        findings.warnings.append(
            f"{field}: {free // 10**6} MB are free on its disk, wanted are "
            f"{LEAST_ROOM // 10**6} MB"
        )
    # some file systems count no files
    if found.f_files and found.f_favail < LEAST_FILES:
        findings.warnings.append(
            f"{field}: {found.f_favail} more files are possible on its disk (inodes), "
            f"wanted are {LEAST_FILES}"
        )
