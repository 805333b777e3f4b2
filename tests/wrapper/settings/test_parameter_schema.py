"""The printed schema, as a validator reads it, against the wrapper itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jsonschema
import pytest
from hypothesis import assume, example, given

from seamless_dask.command.spelling import meant, misspelt
from seamless_dask.wrapper.exit_codes import ParametersError
from seamless_dask.wrapper.settings import value_schemas as schemas
from seamless_dask.wrapper.settings.parameters import (
    Parameters,
    json_schema,
    read_parameters,
)

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
EXAMPLES = Path(__file__).parents[3] / "examples" / "slurm"

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([999_999, 1_000_000, 1_000_001, 1023, 1024, 65535, 65536, 10**9]),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=6),
    st.sampled_from(["a\u2028b", "\u3000", "\u200fx", "0.5b"]),
    st.text("0123456789:.-+ eE", max_size=8),
    st.from_regex(r"\A ?[0-9]{1,3}(\.[0-9])? ?[a-zA-Z]{0,3}\n?\Z"),
    st.from_regex(r"\A[0-9]{0,2}-?[0-9]{1,2}(:[0-9]{2}){0,2}\Z"),
    st.sampled_from(
        [
            "1h",
            "0s",
            "00:00:00",
            "4GB",
            "4",
            "1000000",
            "1000001",
            "/tmp",
            "~/x",
            "a\tb",
        ]
    ),
    st.builds(lambda a, b: f"{a}:{b}", NUMBERS, NUMBERS),
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = (
    LEAVES
    | st.lists(LEAVES, max_size=3)
    | st.dictionaries(st.sampled_from(["GPU", "", " ", "a.b", "a..b", "."]), LEAVES)
)


def refused_by_wrapper(parameters: dict[str, Any]) -> bool:
    try:
        read_parameters(parameters)
    except ParametersError:
        return True
    return False


def test_it_is_a_schema() -> None:
    """By the rules of the draft that it names."""
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@given(st.sampled_from(sorted(Parameters.model_fields)), VALUES)
@example("cores", 0)
@example("cores", True)
@example("memory", "4")
@example("walltime", "90")
@example("walltime", 36000)
@example("lifetime", "\u0663h")
@example("walltime", "0:00:00")
@example("partition", "a b")
@example("extra_dask_config", {"a.": 1})
def test_it_refuses_what_the_wrapper_refuses(name: str, value: Any) -> None:
    """Apart from what depends on other values: the order of ports, keys in keys."""
    assume(refused_by_wrapper({name: value}))
    if name == "internal_port_range":
        assume(not isinstance(value, str) or "-" not in value.strip("-"))
        ports = value.split(":") if isinstance(value, str) else value
        if isinstance(ports, list) and len(ports) == 2:
            assume(not all(isinstance(port, (int, float, str)) for port in ports))
    if name == "extra_dask_config" and isinstance(value, dict):
        assume("." in value or "a..b" in value or "" in value or " " in value)
    assert not VALIDATOR.is_valid({name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cores", [1, 4.0, "4", " 4 ", 1_000_000, None]),
        (
            "walltime",
            ["90m", "4h", "01:00:00", "2-12:00:00", "1-06", "1.5 hours"],
        ),
        ("target_duration", ["10m", 90, "90 s", "300ms", "90"]),
        ("lifetime_stagger", [0, "0s", "4m"]),
        ("memory", ["54000MB", "16GiB", "4 g", "1.5 TB"]),
        ("tmpdir", ["/tmp", "~/scratch", "$TMPDIR/x", "${TMPDIR}"]),
        ("partition", ["long", "long,short "]),
        ("job_extra_directives", ["--mem=0", ["--mem=0", "-l x='a b'"], []]),
        ("dask_resources", [{"GPU": 1}, {"GPU": "0.5", "S 1": 0}]),
        ("internal_port_range", ["40000:40100", [40000, 40100], ["2000", "3000"]]),
        ("interactive", [True, False]),
        ("timeout", [1, 0.5, "600"]),
        ("extra_dask_config", [{}, {"distributed.scheduler.work-stealing": False}]),
    ],
)
def test_it_accepts_what_people_write(name: str, values: list[Any]) -> None:
    """As the wrapper does, in both spellings of the name."""
    for value in values:
        assert not refused_by_wrapper({name: value})
        VALIDATOR.validate({name: value})
        VALIDATOR.validate({name.replace("_", "-"): value})


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=str)
def test_it_accepts_the_examples(file: Path) -> None:
    """Unknown names too, about which the wrapper warns only."""
    VALIDATOR.validate(json.loads(file.read_text()) | {"colour": "red"})


def test_one_name_in_two_spellings() -> None:
    """Refused as by the wrapper, unless one of them is null."""
    twice = {"worker_threads": 2, "worker-threads": 2}
    assert refused_by_wrapper(twice) and not VALIDATOR.is_valid(twice)
    VALIDATOR.validate(twice | {"worker-threads": None})


def test_alternatives_are_flat() -> None:
    """Editors show one list."""
    nested = {"anyOf": [{"anyOf": [{"type": "null"}, schemas.LINE]}, schemas.PATH]}
    assert schemas.flat(nested) == [{"type": "null"}, schemas.LINE, schemas.PATH]


@given(st.sampled_from(sorted(Parameters.model_fields)), st.data())
def test_a_misspelt_name_is_recognized(name: str, data: st.DataObject) -> None:
    """One letter is missing, or the case and the hyphens are others."""
    assert meant(name.upper().replace("_", "-"), Parameters.model_fields) == name
    assume(len(name) > 4)
    place = data.draw(st.integers(0, len(name) - 1))
    written = name[:place] + name[place + 1 :]
    assume(written not in Parameters.model_fields)
    (sentence,) = misspelt([written], [name])
    assert sentence == f"{written}: is not known; did you mean {name}?"


def test_the_error_suggests_a_name() -> None:
    """Beside the problems, since a required parameter may be the misspelt one."""
    with pytest.raises(ParametersError) as caught:
        read_parameters({"cores": 0, "walltim": "1h", "colour": "red"})
    problems = caught.value.problems
    assert problems[-1] == "walltim: is not known; did you mean walltime?"
    assert len(problems) == 2, "nothing is like a colour"
