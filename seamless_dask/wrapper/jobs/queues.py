"""The commands of each batch system that query, search and cancel jobs.

This module only builds commands and reads their output; it runs nothing. It imports only
the standard library, because the guard uses it as well.

SLURM, Grid Engine and OAR were tested on real systems; the commands for PBS, LSF and
HTCondor follow the manuals. For Moab the commands of Torque are used, which it includes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .options import options
from .queue_answers import (
    Row,
    Rows,
    UnreadableAnswer,
    parse_condor,
    parse_grid_engine,
    parse_lsf,
    parse_oar,
    parse_pbs,
    parse_qselect,
    parse_slurm,
    trouble,
)

__all__ = ["QUEUES", "Queue", "Row", "Rows", "UnreadableAnswer"]


@dataclass(frozen=True)
class Queue:
    """The commands of one batch system.

    An entry of `QUEUES` is for all clusters; `of` makes a copy for one cluster, with the
    name of its jobs.
    """

    #: The command that asks about jobs, without their ids.
    query: Sequence[str]
    #: Reads its output.
    parse: Callable[[str], Rows]
    #: The command that cancels, without the ids.
    cancel: Sequence[str]
    #: Turns ids into arguments of the query command.
    ids: Callable[[list[str]], list[str]] = list
    #: Pattern in the error output of a query that means: jobs have ended, all is well.
    ended: str = "(?!)"
    #: Pattern in the output of a cancellation that means: a job had ended before.
    too_late: str = "(?!)"
    #: Makes new directives from the directives of a job and the nodes to avoid; None if
    #: nodes cannot be avoided.
    exclude: Callable[[list[str], list[str]], list[str]] | None = None
    #: Makes the command that searches jobs by name; None if there is none.
    search: Callable[[str], list[str]] | None = None
    #: Reads its output; None: `parse` does.
    parse_search: Callable[[str], Rows] | None = None
    #: Its name in `QUEUES`.
    system: str = ""
    #: The name that all jobs of the cluster have, and no others.
    job_name: str = ""
    #: Options for all commands about jobs, such as ``--clusters=other``.
    options: tuple[str, ...] = ()
    #: The option of directives that such options are taken from: batch system, name.
    everywhere: tuple[str, str] = ("", "")

    def of(self, job_name: str, options: Iterable[str] = ()) -> Queue:
        """Return a copy for one cluster."""
        return replace(self, job_name=job_name, options=tuple(options))

    def options_of(self, directives: Iterable[str]) -> tuple[str, ...]:
        """The options for all commands, taken from the directives of jobs."""
        system, name = self.everywhere
        values = [
            option.value
            for item in directives
            for option in options(item.strip(), system)
            if option.names == (name,)
        ]
        return (f"--clusters={values[-1]}",) if values else ()

    def query_command(self, job_ids: Iterable[str]) -> list[str]:
        """One command that asks about all these jobs."""
        return [*self.query, *self.options, *self.ids(list(job_ids))]

    def cancel_command(self, job_ids: Iterable[str]) -> list[str]:
        """One command that cancels all these jobs."""
        return [*self.cancel, *self.options, *job_ids]

    def search_command(self) -> list[str] | None:
        """One command that asks for all jobs of this cluster, known or not."""
        if self.search is None or not self.job_name:
            return None
        command, *rest = self.search(self.job_name)
        return [command, *self.options, *rest]

    def answer(
        self, code: int, output: str, errors: str, job_ids: Iterable[str] | None = None
    ) -> Rows:
        """The rows of a query that has ended. Raises `UnreadableAnswer`.

        Parameters
        ----------
        code, output, errors
            Its exit code and what it has written.
        job_ids
            The jobs that were asked about; other rows are of jobs that are not ours. None:
            all are ours.
        """
        rows = self._read(self.query[0], self.parse, code, output, errors)
        ours = rows if job_ids is None else set(job_ids) & set(rows)
        return self._or_trouble(self.query[0], rows, bool(ours), output, errors)

    def search_answer(self, code: int, output: str, errors: str) -> Rows:
        """The rows of a search that has ended. Raises `UnreadableAnswer`."""
        parse = self.parse_search or self.parse
        command = "the search for jobs"
        rows = self._read(command, parse, code, output, errors)
        # an answer without names is from a command that searches this name only
        ours = {
            job_id: row
            for job_id, row in rows.items()
            if row.name in ("", self.job_name)
        }
        self._or_trouble(command, rows, bool(ours), output, errors)
        return ours

    def cancel_error(self, code: int, output: str, errors: str) -> str:
        """Why a cancellation failed; "" if it did not, or if its jobs had ended before."""
        said = (errors.strip() or output.strip())[:500]
        if not code:
            return trouble(errors, self.too_late)
        if re.search(self.too_late, said):
            return ""
        return said or f"{self.cancel[0]} ended with code {code}"

    def _read(
        self,
        command: str,
        parse: Callable[[str], Rows],
        code: int,
        output: str,
        errors: str,
    ) -> Rows:
        ended = bool(code) and bool(re.search(self.ended, errors))
        if code and not ended:
            said = (errors.strip() or output.strip())[:500]
            raise UnreadableAnswer(f"{command} ended with code {code}: {said}")
        try:
            return parse(output)
        except UnreadableAnswer:
            if ended:  # only a greeting
                return {}
            raise

    def _or_trouble(
        self, command: str, rows: Rows, ours: bool, output: str, errors: str
    ) -> Rows:
        """Refuse an answer with none of our jobs that comes with an error message.

        Some commands end with code 0 although they have not reached the batch system, or
        only one of its clusters: that an answer is empty then means nothing.
        """
        if ours:
            return rows
        # among rows the output may have names of jobs and reasons with such words
        said = trouble(errors if rows else f"{errors}\n{output}", self.ended)
        if said:
            raise UnreadableAnswer(f"{command} shows none of our jobs and says: {said}")
        return rows


def _exclude_slurm(given: list[str], nodes: list[str]) -> list[str]:
    """SLURM uses the last list only, so ours must include the user's."""
    kept, excluded = [], []
    for directive in given:
        match = re.fullmatch(r"(?:--exclude[= ]|-x ?)(\S+)", directive.strip())
        if match:
            excluded.append(match[1])
        else:
            kept.append(directive)
    return [*kept, f"--exclude={','.join([*excluded, *nodes])}"]


def _exclude_oar(given: list[str], nodes: list[str]) -> list[str]:
    """OAR uses the last ``-p`` only, so ours must include the user's condition."""
    names = ",".join(f"'{node}'" for node in nodes)
    condition = f"network_address NOT IN ({names})"
    kept = []
    for directive in given:
        option, *words = shlex.split(directive)
        if option == "-p" and words:
            condition = f"({' '.join(words)}) AND {condition}"
        else:
            kept.append(directive)
    quoted = shlex.quote(condition) if '"' in condition else f'"{condition}"'
    return [*kept, f"-p {quoted}"]


def _exclude_lsf(given: list[str], nodes: list[str]) -> list[str]:
    others = " && ".join(f"hname!='{node}'" for node in nodes)
    return [*given, f'-R "select[{others}]"']


_LSF_FORMAT = "jobid stat exec_host exit_reason delimiter='|'"
_CONDOR_FORMAT = ["-autoformat:j,", "JobStatus", "RemoteHost", "HoldReason"]
_PBS_QUEUE = Queue(
    query=["qstat"],
    parse=parse_pbs,
    cancel=["qdel"],
    ended="(?i)unknown job|has finished",
    too_late="(?i)unknown job|has finished|invalid state",
    search=lambda name: ["qselect", "-N", name],
    parse_search=parse_qselect,
)

_QUEUES: Mapping[str, Queue] = {
    "slurm": Queue(
        # with the header: below it, an empty list is an answer
        query=["squeue", "--states=all", "--format=%i|%t|%N|%r"],
        ids=lambda ids: [f"--jobs={','.join(ids)}"],
        parse=parse_slurm,
        cancel=["scancel"],
        ended="Invalid job id",
        too_late="already complet",
        exclude=_exclude_slurm,
        search=lambda name: [
            "squeue",
            "--states=all",
            "--format=%i|%t|%N|%r|%j",
            f"--name={name}",
        ],
        # without this option SLURM does not show jobs on another cluster
        everywhere=("slurm", "--clusters"),
    ),
    "sge": Queue(
        query=["qstat", "-xml"],
        ids=lambda ids: [],
        parse=parse_grid_engine,
        cancel=["qdel"],
        too_late="does not exist|already",
        exclude=lambda given, nodes: [*given, f"-l 'h=!({'|'.join(nodes)})'"],
        search=lambda name: ["qstat", "-xml"],
    ),
    "oar": Queue(
        query=["oarstat", "--json", "--full"],
        ids=lambda ids: [part for job_id in ids for part in ("--job", job_id)],
        parse=parse_oar,
        cancel=["oardel"],
        too_late="already killed",
        exclude=_exclude_oar,
        search=lambda name: ["oarstat", "--json", "--full", "--user"],
    ),
    "pbs": _PBS_QUEUE,
    "moab": replace(_PBS_QUEUE, cancel=["canceljob"]),
    "lsf": Queue(
        query=["bjobs", "-a", "-o", _LSF_FORMAT],
        parse=parse_lsf,
        cancel=["bkill"],
        ended="is not found",
        too_late="already finished|No matching job",
        exclude=_exclude_lsf,
        search=lambda name: ["bjobs", "-a", "-o", _LSF_FORMAT, "-J", name],
    ),
    "htcondor": Queue(
        query=["condor_q", *_CONDOR_FORMAT],
        parse=parse_condor,
        cancel=["condor_rm"],
        too_late="(?i)not found|couldn't find",
        search=lambda name: [
            "condor_q",
            "-constraint",
            f'JobBatchName == "{name}"',
            *_CONDOR_FORMAT,
        ],
    ),
}

#: {name of the batch system in dask_jobqueue: its commands}
QUEUES = {name: replace(queue, system=name) for name, queue in _QUEUES.items()}
