"""The pins of a transformation, in the format of seamless-transformer.

A pin is an entry of the transformation dict: its name, without underscores at the
beginning, and a tuple of celltype, subcelltype and checksum (None if it is not known yet).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seamless import Checksum
from seamless_transformer.run import get_transformation_inputs_output


def pins(transformation_dict: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield name and ``(celltype, subcelltype, checksum)`` of each pin."""
    for name, value in transformation_dict.items():
        if not name.startswith("__") and isinstance(value, tuple) and len(value) >= 3:
            yield name, value


def code_checksum(transformation_dict: Mapping[str, Any]) -> str | None:
    """Return the checksum of the code, None while it is not known."""
    pin = transformation_dict.get("code")
    if not isinstance(pin, (tuple, list)) or len(pin) < 3 or pin[2] is None:
        return None
    return pin[2] if isinstance(pin[2], str) else Checksum(pin[2]).hex()


def checksums_in(transformation_dict: Mapping[str, Any]) -> list[str]:
    """Return the known checksums of inputs."""
    return [
        Checksum(checksum).hex()
        for _, (_, _, checksum) in pins(transformation_dict)
        if checksum is not None
    ]


def with_tuples(transformation_dict: dict[str, Any]) -> dict[str, Any]:
    """Turn pins back into tuples after a passage through JSON."""
    return {
        name: tuple(value)
        if isinstance(value, list) and not name.startswith("__")
        else value
        for name, value in transformation_dict.items()
    }


def buffers_to_run(
    transformation_dict: Mapping[str, Any], tf_dunder: Mapping[str, Any]
) -> set[str]:
    """Return the checksums of all buffers that a transformation needs.

    These are its inputs and its environment.
    """
    checksums = {
        value[2]
        for value in transformation_dict.values()
        if isinstance(value, tuple) and len(value) > 2 and value[2]
    }
    environment = tf_dunder.get("__env__")
    if isinstance(environment, str):
        checksums.add(environment)
    return checksums


def input_checksums(transformation_dict: dict[str, Any]) -> set[str]:
    """Return the distinct checksums of the pins that a transformation reads."""
    names = get_transformation_inputs_output(transformation_dict)[0]
    original = {v: k for k, v in transformation_dict.get("__as__", {}).items()}
    pins = (transformation_dict.get(original.get(name, name)) for name in names)
    return {Checksum(pin[2]).hex() for pin in pins if pin is not None and pin[2]}
