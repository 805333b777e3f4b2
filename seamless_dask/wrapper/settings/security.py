"""Access to the cluster: checks TLS, and warns if there is none.

Anybody who can connect to a Dask scheduler can run programs on its workers. With TLS, set
up in Dask's own configuration, a client needs a certificate; see ``docs/security.md``.
"""

from __future__ import annotations

import getpass
import ipaddress
import logging
import os
import shlex
import stat
from pathlib import Path
from typing import Any

import dask.config

from ...cluster import private_directories
from .dask_config import merged_config
from .directory_checks import scratch_directory
from .parameter_types import absolute_path
from .parameters import Parameters

logger = logging.getLogger(__name__)

REQUIRED = "distributed.comm.require-encryption"
#: The role client is needed too: the cluster itself is a client.
_FILES = (
    "distributed.comm.tls.ca-file",
    *(
        f"distributed.comm.tls.{role}.{file}"
        for role in ("client", "scheduler", "worker")
        for file in ("cert", "key")
    ),
)
_DASHBOARD = "distributed.scheduler.dashboard.tls.cert"


def tls_problems(parameters: Parameters) -> list[str]:
    """Problems with TLS in Dask's configuration, with the parameters merged into it."""
    extra = merged_config({}, parameters.extra_dask_config)
    config = dask.config.merge(dask.config.config, extra)
    problems = []
    if dask.config.get(_DASHBOARD, None, config=config):
        problems.append(
            f"{_DASHBOARD}: cannot be used, since the dashboard is asked by http whether "
            "the cluster is well"
        )
    if not dask.config.get(REQUIRED, False, config=config):
        given = [key for key in _FILES if dask.config.get(key, None, config=extra)]
        if given:
            problems.append(
                f"{given[0]}: has no effect unless {REQUIRED} is true: nothing would be "
                "encrypted"
            )
        return problems
    for key in _FILES:
        problem = _file_problem(dask.config.get(key, None, config=config))
        if problem:
            problems.append(f"{key}: {problem}")
    return problems


def _file_problem(value: Any) -> str:
    allowed = f"needed since {REQUIRED} is true: the absolute path of a file"
    if value is None:
        return f"is {allowed}"
    if not isinstance(value, str) or "\n" in value:
        # Dask accepts the key itself as well, but everybody could read it in job scripts
        return f"what is given is not {allowed}"
    try:
        absolute_path(value)
        with open(value, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            private = b"PRIVATE KEY" in file.read()
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        return f"{value!r} ({reason}) is not {allowed} that can be read"
    if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"{value!r} holds a private key and is open to others: chmod 600"
    return ""


def tls_arguments(*, batch: bool = False) -> dict[str, Any]:
    """Arguments of a cluster class, from Dask's configuration; none without TLS.

    `batch` says that the cluster class is from dask_jobqueue.
    """
    from distributed.security import Security

    class ForScripts(Security):
        """dask_jobqueue writes paths into the script as they are."""

        def get_tls_config_for_role(self, role: str) -> dict[str, Any]:
            found: dict[str, Any] = super().get_tls_config_for_role(role)
            if role == "worker":
                return {
                    key: value and shlex.quote(value) for key, value in found.items()
                }
            return found

    if not dask.config.get(REQUIRED, False):
        return {}
    return {"security": ForScripts() if batch else Security(), "protocol": "tls://"}


def warn_of_others(
    scheduler: Any, parameters: Parameters, *, batch: bool = False
) -> None:
    """Log which users and machines can connect to the cluster.

    `batch` says that its workers are jobs of a batch system.
    """
    from distributed.comm import get_address_host

    if dask.config.get(REQUIRED, False):
        logger.log(
            logging.INFO if parameters.pure_dask else logging.WARNING,
            "Only clients with a certificate can connect, to %s. seamless-config and "
            "seamless-remote cannot: they know tcp:// only.",
            scheduler.address,
        )
        return
    hosts = [get_address_host(each.listen_address) for each in scheduler.listeners]
    user = _user()
    local = all(ipaddress.ip_address(host).is_loopback for host in hosts)
    if local and batch:
        logger.warning(
            "The scheduler listens on %s, which jobs on other machines cannot reach: "
            "start the wrapper with --host and an address of this machine.",
            ", ".join(hosts),
        )
    if local:
        logger.info(
            "Other users of this machine, if there are any, can connect to the scheduler "
            "and have it run programs as %s; see docs/security.md.",
            user,
        )
    else:
        logger.warning(
            "The scheduler listens on %s without TLS: whoever can reach it can run "
            "programs as %s. Let a firewall admit only your own machines, or use TLS; "
            "see docs/security.md.",
            ", ".join(hosts),
            user,
        )


def _user() -> str:
    """The name of the user, or the id of a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # depends on the version of Python
        return f"the user with the id {os.getuid()}"


def keep_files_private() -> None:
    """Give the scheduler a private directory, because it looks for modules there."""
    key = "temporary-directory"
    directory = private_directories.make(scratch_directory())
    dask.config.set({key: directory})
    try:
        Path.home()
    except RuntimeError:  # a user id without a name; libraries of Dask need a home
        os.environ["HOME"] = directory


def directory_for_workers(parent: str) -> str:
    """Make a directory below `parent` for the workers on this machine."""
    mode = os.stat(parent).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        logger.warning(
            "tmpdir = %r: everybody can replace what is in it, and so change what workers "
            "run. Set its sticky bit (chmod +t), or use another.",
            parent,
        )
    return private_directories.make(parent)
