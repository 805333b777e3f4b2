"""Prologues after which the worker would never start are refused before submission."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.written import BATCH, SYSTEMS, problems


@pytest.mark.parametrize(
    ("lines", "named", "said"),
    [
        (["module load gcc", 'echo "hello'], 'echo "hello', "matching"),
        (["echo 'hello", "true"], "echo 'hello", "matching"),
        (["cat <<END", "text"], "cat <<END", "here-document"),
        (["true", "module load gcc \\"], "module load gcc \\", "backslash"),
        (["if true; then", "echo x"], "echo x", "end of file"),
        (["(cd /tmp", "true"], "true", "end of file"),
        (["f() {", "true"], "true", "end of file"),
        (["for i in 1 2; do"], "for i in 1 2; do", "end of file"),
        (["true &&"], "true &&", "end of file"),
        (["true", "fi", "true"], "fi", "near unexpected token"),
        (["if true; then", "true", "fi \\"], "fi \\", "backslash"),
        (["for i in 1 2; do", "true", "done \\"], "done \\", "backslash"),
        (["{ true; } \\"], "{ true; } \\", "backslash"),
        (["(true) \\"], "(true) \\", "backslash"),
        (["[[ -d / ]] \\"], "[[ -d / ]] \\", "backslash"),
        (["x=$(cat <<END", "text", ")"], "x=$(cat <<END", "here-document"),
    ],
)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_prologue_that_swallows_the_worker(
    system: str, lines: list[str], named: str, said: str
) -> None:
    raw: dict[str, Any] = {**BATCH, "memory_per_core_property_name": "x"}
    (problem,) = problems(system, {**raw, "job_script_prologue": lines})
    assert problem.startswith(f"job_script_prologue = {named!r}: ")
    assert said in problem and "bash says (line " in problem


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["true", "exit 0"], "exit 0"),
        (["exit"], "exit"),
        (["exit 1", "true"], "exit 1"),
        (["module load gcc", "exec bash"], "exec bash"),
        (["exit 1 # a | b"], "exit 1 # a | b"),
        (["exit; true"], "exit; true"),
        (["exec  bash -l 2>&1"], "exec  bash -l 2>&1"),
        (["exec -a name python x.py"], "exec -a name python x.py"),
        (["cd /; exit"], "cd /; exit"),
        (["[ -d / ] || exit 1", "true;exit 1"], "true;exit 1"),
        (["{ exit 0; }"], "{ exit 0; }"),
        (["{ true", "{ exit 0", "}; }"], "{ exit 0"),
        (["{ exit 0; } 2>&1"], "{ exit 0; } 2>&1"),
        (["command exit"], "command exit"),
        (["true; builtin exit 3"], "true; builtin exit 3"),
        (["if true; then", "true", "fi; exit"], "fi; exit"),
        (["cat <<END; exit 1", "text", "END"], "cat <<END; exit 1"),
        (["cat <<END", "    exit 2", "END", "\texit 3"], "\texit 3"),
        (["exit >&2"], "exit >&2"),
        (['exit "$code"'], 'exit "$code"'),
        (["time exit 3"], "time exit 3"),
        (["time -p exit 3"], "time -p exit 3"),
        (["x=1 y='a b' exit 4"], "x=1 y='a b' exit 4"),
        (["x=1 exec bash"], "x=1 exec bash"),
        (["true", "exit 0 && true"], "exit 0 && true"),
        (["exit 5 || true"], "exit 5 || true"),
        (["if exit 3; then :; fi"], "if exit 3; then :; fi"),
        (["until exit 3; do :; done"], "until exit 3; do :; done"),
        (["while exit 3", "do", "true", "done"], "while exit 3"),
        (["while :; do exit 0; done"], "while :; do exit 0; done"),
        (["while true; do", "true", "exit 7", "done"], "exit 7"),
        (["for i in 1; do exit 1; done"], "for i in 1; do exit 1; done"),
        (["for i in a b", "do", "exit 9", "done >&2"], "exit 9"),
        (["eval 'exit 3'"], "eval 'exit 3'"),
        (['eval "cd /; exit 3"'], 'eval "cd /; exit 3"'),
        (["true", "kill $$"], "kill $$"),
        (['kill -9 "$$"'], 'kill -9 "$$"'),
        (["kill -s TERM $$"], "kill -s TERM $$"),
        (["trap 'exit 0' DEBUG"], "trap 'exit 0' DEBUG"),
    ],
)
def test_a_prologue_that_ends_the_job(lines: list[str], named: str) -> None:
    (problem,) = problems("slurm", {**BATCH, "job_script_prologue": lines})
    assert problem.startswith(f"job_script_prologue = {named!r}: ends the job")


@pytest.mark.parametrize(
    "line",
    [
        *("set -n", "set -o noexec", "set -eun", "set -eo pipefail -n", "set +x -n"),
        *("builtin set -n", "{ set -n; }", "for i in 1; do set -n; done"),
    ],
)
def test_a_prologue_behind_which_bash_only_reads(line: str) -> None:
    (problem,) = problems("slurm", {**BATCH, "job_script_prologue": ["true", line]})
    assert problem.startswith("job_script_prologue = ")
    assert "bash executes nothing behind it" in problem


@pytest.mark.parametrize(
    "lines",
    [
        ["set -e", "set -euo pipefail", "set +n", "set -o nounset", "set -- -n x"],
        ["(set -n; exit)", "set -n | cat", "[ -d / ] && set -n", "x='set -n'"],
        ["set() { :; }", "set -n"],
        ["echo x | exit 3 && true", "exit 1 && true &", "x=1 exit | cat"],
        ["if ! [ -d / ]; then exit 3; fi", "if true && exit 3 | cat; then :; fi"],
        ["if exit 3; then :; fi | cat", "while exit; do :; done &"],
        ["for i in a b; do [ -d $i ] && break; exit 1; done"],
        ["for i in $list; do exit 1; done", "while read x; do exit; done"],
        ["while true; do", "[ -d /data ] && break", "exit 1", "done"],
        ["eval 'f() { exit 3; }'", "eval 'true || exit'", 'eval "$(tool exit)"'],
        ["kill -0 $$", "kill $$ | cat", "kill $pid", "kill -USR1 $$"],
        ["trap 'true' TERM", "kill $$"],
        ["trap 'exit 0' EXIT", "trap 'exit 1' ERR", "trap 'echo exit' DEBUG"],
        ["time true", "x=1", "export x=1 y=exit"],
        ["[ -d /data ] || exit 1"],
        ["test -d /data ||", "exit 1"],
        ["if ! test -d /data; then", "exit 1", "fi"],
        ["leave() {", "exit 1", "}"],
        ["cat >/tmp/x <<END", "exit 1", "END"],
        ["(", "exit 1", ")"],
        ["exec 2>&1"],
        ["exec  >/dev/null", "exec\t 2>&1"],
        ["exec \\", ">/dev/null"],
        ["exit 1 | cat", "exit 1 &", "exec bash | cat", "exec true &"],
        ["exec () { :; }", "exec bash"],
        ["exit() { :; }", "exit 1"],
        ["exec >/tmp/log 2>&1"],
        ["exec 3</dev/null", "exec {fd}>/dev/null", "exec"],
        ["exit_code=3", "exec_it=1"],
        ["{ exit 0; } | cat", "{ exit 0; } &", "{ true; } || exit 1", "(cd /; exit)"],
        ["{ true", "} || { exit 1; }", "[ -d / ] || { echo no; exit 1; }"],
        ["cat <<END", "    exit 1", "END", "echo '", "    exit 1'", "echo exit"],
        ["x=$(cat <<EOF", "it's a text", "EOF", ")"],
        ["x=$(cat <<EOF", "text", "EOF)", "true"],
        ["cat >/tmp/job <<EOF", "#SBATCH --gres=gpu:1", "EOF"],
        ["text='", "#PBS -l x'", "trap 'exit 1' TERM", "case $x in a) exit;; esac"],
        ["echo a \\", "b"],
        ["echo 'a", "b'"],
        ["true # a remark with a \\"],
        ["echo a\\\\"],
        ["shopt -s extglob", "ls !(*.log)", "[[ x =~ ^x$ ]]", "a=(1 2)"],
        ["source /etc/profile", "# a remark", "export LC_ALL=no_SUCH.locale"],
    ],
)
def test_prologues_that_are_right(lines: list[str]) -> None:
    assert not problems("slurm", {**BATCH, "job_script_prologue": lines})


def test_nothing_of_a_prologue_is_run(tmp_path: Path) -> None:
    lines = [f"touch '{tmp_path}/there'", f"x=$(touch '{tmp_path}/there')"]
    for last in ('echo "', "exit", "cd /; exit", "} ; touch x; exit; {", "f; exit"):
        more = [*lines, last, *lines]
        assert problems("slurm", {**BATCH, "job_script_prologue": more})
    assert not list(tmp_path.iterdir())


def test_all_problems_of_a_prologue_at_once() -> None:
    lines = ["#PBS -l x", "exit 1", "fi", "echo 'x", "cd /; exec bash"]
    found = problems("slurm", {**BATCH, "job_script_prologue": lines})
    assert [problem.partition(": ")[0] for problem in found] == [
        f"job_script_prologue = {line!r}"
        for line in ("#PBS -l x", "fi", "echo 'x", "exit 1", "cd /; exec bash")
    ]


def test_a_directive_in_the_prologue_is_refused_where_it_is_a_comment() -> None:
    lines = ["if true; then", "#SBATCH -t 5", "true", "fi"]
    (problem,) = problems("slurm", {**BATCH, "job_script_prologue": lines})
    assert problem.startswith("job_script_prologue = '#SBATCH -t 5': is read by nobody")


def test_prologues_in_the_configuration_and_other_problems() -> None:
    key = "jobqueue.slurm.job-script-prologue"
    raw = {
        **BATCH,
        "processes": 20,
        "job_script_prologue": ["exit 1"],
        "extra_dask_config": {key: ["true", "echo '"]},
    }
    first, second, third = problems("slurm", raw)
    assert first.startswith("processes = 20")
    assert second.startswith("job_script_prologue = 'exit 1'")
    assert third.startswith(f"Dask's configuration {key} = \"echo '\": ")


def test_what_other_shells_read_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {**BATCH, "job_script_prologue": ["if ( -d /data ) then", "endif"]}
    assert problems("slurm", raw)
    other = {"jobqueue.slurm.shebang": "#!/bin/tcsh"}
    assert not problems("slurm", {**raw, "extra_dask_config": other})
    monkeypatch.setenv("PATH", "/nowhere")  # without bash
    raw["job_script_prologue"] = ["if [ -d /a_directory ]", "true"]
    assert not problems("slurm", raw)


def test_lines_of_htcondor_are_one() -> None:
    raw = {**BATCH, "extra_dask_config": {"jobqueue.htcondor.disk": "1GB"}}
    assert not problems("htcondor", {**raw, "job_script_prologue": ["true", "x=1"]})
    lines = ["if true; then", "true", "fi"]
    (problem,) = problems("htcondor", {**raw, "job_script_prologue": lines})
    assert "near unexpected token" in problem
    for lines in (["true", "exit 1"], ["cd /; exit 1"], ["{ exit 1; }"]):
        (problem,) = problems("htcondor", {**raw, "job_script_prologue": lines})
        assert "ends the job before its worker starts" in problem
    assert not problems("htcondor", {**raw, "job_script_prologue": ["true || exit 1"]})


@pytest.mark.cluster
def test_a_dry_run_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "parameters.json"
    file.write_text(json.dumps({**BATCH, "job_script_prologue": ["echo '"]}))
    done = subprocess.run(
        [sys.executable, "-m", "seamless_dask.wrapper", "dask_jobqueue::SLURMCluster"]
        + ["--dry-run", "--parameters", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3 and not done.stdout
    assert 'job_script_prologue = "echo \'": ' in done.stderr
