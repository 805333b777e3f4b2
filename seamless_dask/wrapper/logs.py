"""One log for a run, with its decisions and their reasons, in one format for all sources.

Dask's messages about each connection, each client and the options of each worker are
left out. Dask's configuration key ``logging`` controls this, so ``extra_dask_config``
can restore them: ``{"logging": {"distributed.scheduler": "info"}}``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

from .exit_codes import StartFailed

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OURS = ("seamless_dask", "scheduler_ext")
#: Loggers of Dask whose messages at level INFO are of no use in the log of a run
CHATTY = (
    "distributed.client",
    # each connection that begins or ends
    "distributed.comm",
    "distributed.core",
    # our own scaling logs the same
    "distributed.deploy",
    # a package that could be installed
    "distributed.http",
    # each client that comes or goes
    "distributed.scheduler",
    # fifteen lines for each worker
    "distributed.worker",
)
_FILE = "logging-file-config"


def set_up(level: str) -> None:
    """Log to the standard error from now on; `level` is one of `LEVELS`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(shorten)
    # messages of other libraries below INFO are left out
    number = logging.getLevelName(level)
    logging.basicConfig(
        level=max(number, logging.INFO), format=FORMAT, handlers=[handler]
    )
    for name in OURS:
        logging.getLogger(name).setLevel(number)
    logging.captureWarnings(True)


def configure_dask() -> None:
    """Let Dask and the workers that it starts on this machine log like this process.

    Existing settings in Dask's configuration are kept. Does nothing without `set_up`.
    Raises `StartFailed` if the configuration names a level that does not exist.
    """
    number = logging.getLogger(OURS[0]).level
    if not number:
        return
    import dask.config
    from distributed.config import initialize_logging

    if _FILE in dask.config.config:
        return
    dask.config.update_defaults(
        {
            "logging": _levels(number),
            "distributed": {"admin": {"log-format": FORMAT}},
        }
    )
    # a worker sets up its log when it imports Dask, before it has its configuration
    environment = {
        "DASK_LOGGING": repr(dask.config.get("logging")),
        "DASK_DISTRIBUTED__ADMIN__LOG_FORMAT": dask.config.get(
            "distributed.admin.log-format"
        ),
    }
    name = "distributed.nanny.pre-spawn-environ"
    dask.config.set({name: {**dask.config.get(name), **environment}})
    try:
        initialize_logging(dask.config.config)
    except (KeyError, TypeError, ValueError) as problem:
        raise StartFailed(
            f"The Dask configuration has no valid key logging: {problem!r}."
        ) from problem


def shorten(record: logging.LogRecord) -> bool:
    """A log filter: a lost connection is logged in one line, without a traceback."""
    if record.name.startswith("distributed") and record.exc_info:
        reason = next(_lost(record.exc_info[1]), None)
        if reason is not None:
            record.msg = f"{record.getMessage()}: {type(reason).__name__}: {reason}"
            record.args = ()
            record.exc_info = record.exc_text = None
    return True


def _lost(problem: BaseException | None) -> Iterator[BaseException]:
    """The errors behind this one that say that a connection is lost."""
    while problem is not None:
        # by its name, since Dask may not be loaded yet
        name = type(problem).__name__
        if name == "CommClosedError" or isinstance(problem, ConnectionError):
            yield problem
        problem = problem.__cause__ or problem.__context__


def _levels(number: int) -> dict[str, str]:
    """{logger: level}, as Dask's configuration has them."""
    chatty = max(number, logging.WARNING) if number > logging.DEBUG else logging.INFO
    return {
        **dict.fromkeys(OURS, _name(number)),
        "distributed": _name(max(number, logging.INFO)),
        **dict.fromkeys(CHATTY, _name(chatty)),
    }


def _name(number: int) -> str:
    return logging.getLevelName(number).lower()
