"""Write the parts of the documentation that the code knows: ``make docs``.

Each part is between two comments, ``<!-- generated: NAME -->`` and ``<!-- end -->``.
With ``--check`` nothing is written, and the exit code is 1 if a part is stale.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seamless_dask.wrapper.exit_codes import MEANINGS
from seamless_dask.wrapper.settings.parameters import DURATION, json_schema

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PAGES = (
    "docs/architecture.md",
    "docs/parameters.md",
    "docs/slurm-jobs.md",
    "docs/wrapper.md",
)
PART = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

#: The first parameter of each group
GROUPS = {
    "walltime": "Job",
    "unknown_task_duration": "Scheduler and life of workers",
    "transformation_throttle": "Worker",
    "interactive": "Cluster",
}
#: How seamless-config writes them; both spellings are accepted everywhere.
HYPHENATED = {
    "unknown_task_duration",
    "target_duration",
    "internal_port_range",
    "lifetime",
    "lifetime_stagger",
    "dask_resources",
}
#: What differs from one run to the next in a job script, and what stands for it
PLACEHOLDERS = (
    (re.escape(sys.executable), "/home/me/.venv/bin/python"),
    (re.escape(str(Path.home())) + r"(?=/\.seamless-dask/)", "/home/me"),
    (r"/\d{8}-\d{6}-\d+/", "/20260102-093000-4711/"),
)


def parameters() -> str:
    """The table of parameters, from their model."""
    lines: list[str] = []
    for name, field in json_schema()["properties"].items():
        if "$ref" in field:  # the other spelling
            continue
        if name in GROUPS:
            lines += [
                *([""] if lines else []),
                f"## {GROUPS[name]}",
                "",
                "| name | what it is | type | allowed | unit | default |",
                "| --- | --- | --- | --- | --- | --- |",
            ]
        written = name.replace("_", "-") if name in HYPHENATED else name
        description, _, default = re.split(
            r"(\.? Default:? |$)", field["description"], maxsplit=1
        )
        if field.get("default") is not None:
            default = f"`{json.dumps(field['default'])}`"
        allowed = field["allowed"]
        cells = (
            f"`{written}`",
            description,
            _types(field),
            "a duration, see above" if allowed == DURATION else allowed,
            field.get("unit", ""),
            default or "none",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _types(field: dict[str, Any]) -> str:
    """JSON types of a field; null is possible for each."""
    types: list[str] = []
    for option in field.get("anyOf", [field]):
        types += (
            option["type"] if isinstance(option["type"], list) else [option["type"]]
        )
    left_out = {"null", "integer"} if "number" in types else {"null"}
    return ", ".join(each for each in types if each not in left_out)


def exit_codes() -> str:
    """The table of exit codes."""
    rows = [f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items()]
    return "\n".join(["| code | meaning |", "| ---: | --- |", *rows])


def example(name: str) -> str:
    """The parameters of an example, and the job script that they lead to."""
    from seamless_dask.wrapper.dry_run import dry_run

    file = EXAMPLES / "slurm" / f"{name}.json"
    script = dry_run("dask_jobqueue::SLURMCluster", file, "tcp://127.0.0.1:PORT")
    for pattern, replacement in PLACEHOLDERS:
        script = re.sub(pattern, replacement, script)
    return f"```json\n{file.read_text().strip()}\n```\n\n```bash\n{script}\n```"


def arrows() -> str:
    """Which package imports which, of both packages; imports for types count."""
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.glob("s*/**/*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("seamless_dask", "scheduler_ext") or len(parts) < 2:
            continue
        here = _package(parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            start = parts[: len(parts) - node.level] if node.level else ()
            module = (*start, *(node.module or "").split("."))
            for alias in node.names:
                there = _package(tuple(filter(None, (*module, alias.name))))
                if there and there != here:
                    found.setdefault(here, set()).add(there)
    rows = [
        f"| `{package}` | {', '.join(f'`{each}`' for each in sorted(found[package]))} |"
        for package in sorted(found)
        if package
    ]
    return "\n".join(["| package | imports |", "| --- | --- |", *rows])


def _package(parts: tuple[str, ...]) -> str:
    """The package of a module, or the module itself at the top of `seamless_dask`."""
    if not parts or parts[0] not in ("seamless_dask", "scheduler_ext"):
        return ""
    for length in (3, 2, 1):
        if (ROOT.joinpath(*parts[:length]) / "__init__.py").is_file():
            package = parts[:length]
            break
    if package == ("seamless_dask",) and parts[1:] and parts[1] != "__init__":
        package = parts[:2]
    return ".".join(package)


PARTS: dict[str, Callable[[], str]] = {
    "arrows": arrows,
    "parameters": parameters,
    "exit-codes": exit_codes,
    "pure-dask": lambda: example("pure_dask"),
    "seamless-dask": lambda: example("seamless_dask"),
}


def updated(text: str) -> str:
    """The text of a page with all its parts written again."""
    return PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    stale = 0
    for page in PAGES:
        path = ROOT / page
        before = path.read_text()
        after = updated(before)
        if after != before:
            stale += 1
            if options.check:
                print(f"{page} is stale: run make docs", file=sys.stderr)
            else:
                path.write_text(after)
                print(f"{page} is written")
    return int(options.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
