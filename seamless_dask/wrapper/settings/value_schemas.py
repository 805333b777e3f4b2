"""JSON schemas of the values of parameters, for editors and validators.

A schema refuses what the wrapper refuses, apart from sizes beyond all reason and from
characters that Unicode has not assigned. It refuses some notations too that the wrapper
reads but nobody needs, such as "1e3s".
"""

from __future__ import annotations

from typing import Any

#: Larger whole numbers are mistakes, and calculations with them could fail.
LARGEST = 1_000_000

# Python's $ matches before a last line end as well
_END = r" *$(?!\n)"
_UNITS = (
    r"(?:[wW]|[wW][eE][eE][kK][sS]?|[dD]|[dD][aA][yY][sS]?|[hH]|[hH][oO][uU][rR][sS]?"
    r"|[mM]|[mM][iI][nN][uU][tT][eE][sS]?|[sS]|[sS][eE][cC][oO][nN][dD][sS]?"
    r"|[mM][sS]|[mM][iI][lL][lL][iI][sS][eE][cC][oO][nN][dD][sS]?)"
)
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"
_CLOCK = (
    r"(?:[0-9]{1,3}-)?[0-9]{1,5}:[0-5][0-9]:[0-5][0-9]"
    r"|[0-9]{1,3}-[0-9]{1,3}(?::[0-5][0-9])?"
)
_ABOVE_ZERO = r"(?=[^a-zA-Z]*[1-9])"
_WHOLE = r"^ *\+?0*(?:[1-9][0-9]{0,5}|1000000)"
#: Characters that cannot be printed; a tab can
_UNPRINTABLE = (
    r"\u0000-\u0008\u000a-\u001f\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f"
    r"\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ue000-\uf8ff\ufeff"
    r"\ufff0-\ufffb\ufffe\uffff"
)

Schema = dict[str, Any]


def _text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


LINE = _text(rf"^(?=.*[^ \t])[^{_UNPRINTABLE}]+$(?!\n)")
WORD = _text(rf"^ *[^{_UNPRINTABLE} \t\"'`\\$;&|<>]+{_END}")
PATH = _text(r"^[/~$][\w./~${}@%+:, -]*$(?!\n)")
LINES = {"anyOf": [LINE, {"type": "array", "items": LINE}]}
WHOLE = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": LARGEST},
        _text(_WHOLE + _END),
    ]
}
SECONDS = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        _text(rf"^ *{_ABOVE_ZERO}{_NUMBER}{_END}"),
    ]
}
UNITS = {"anyOf": [{"type": "number", "minimum": 0}, _text(rf"^ *{_NUMBER}{_END}")]}
RESOURCES = {"type": "object", "propertyNames": LINE, "additionalProperties": UNITS}
DURATION = {
    "anyOf": [
        _text(rf"^ *{_ABOVE_ZERO}(?:{_CLOCK}|{_NUMBER} *{_UNITS}?){_END}"),
        {"type": "number", "exclusiveMinimum": 0, "maximum": 10**9},
    ]
}
DURATION_OR_ZERO = {
    "anyOf": [
        _text(rf"^ *(?:{_CLOCK}|{_NUMBER} *{_UNITS}?){_END}"),
        {"type": "number", "minimum": 0, "maximum": 10**9},
    ]
}
WALLTIME = _text(rf"^ *{_ABOVE_ZERO}(?:{_CLOCK}|{_NUMBER} *{_UNITS}){_END}")
MEMORY = _text(
    rf"^ *{_ABOVE_ZERO}[0-9]{{1,9}}"
    rf"(?:(?:\.[0-9]{{1,3}})? *[kKmMgGtTpP][iI]?[bB]?| *[bB]){_END}"
)
_PORT = {
    "anyOf": [
        {"type": "integer", "minimum": 1024, "maximum": 65535},
        _text(r"^(?:102[4-9]|10[3-9][0-9]|1[1-9][0-9]{2}|[2-9][0-9]{3}|[1-5][0-9]{4}"
              r"|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$(?!\n)"),
    ]
}  # fmt: skip
PORT_RANGE = {
    "anyOf": [
        _text(r"^ *[0-9]{4,5} *[:-] *[0-9]{4,5} *$(?!\n)"),
        {"type": "array", "items": _PORT, "minItems": 2, "maxItems": 2},
    ]
}
CONFIGURATION = {
    "type": "object",
    "propertyNames": {"pattern": r"^[^.]*[^. ][^.]*(?:\.[^.]*[^. ][^.]*)*$(?!\n)"},
}


def flat(schema: Schema) -> list[Schema]:
    """The alternatives in a schema, without alternatives of alternatives."""
    if "anyOf" not in schema:
        return [schema]
    return [each for option in schema["anyOf"] for each in flat(option)]
