"""Data that callers and the client exchange: submissions, inputs and futures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class TransformationInputSpec:
    """One input (pin) of a transformation.

    Parameters
    ----------
    name
        Name of the pin; ``code`` is a pin as well.
    celltype, subcelltype
        Seamless celltypes of the value.
    checksum
        64 hexadecimal digits, or None when the value is the result of another
        transformation that has not been computed yet.
    kind
        ``"checksum"``: `checksum` is known. ``"transformation"``: the value comes
        from the future of the same name in `TransformationSubmission.input_futures`.
    """

    name: str
    celltype: str
    subcelltype: str | None
    checksum: str | None
    kind: Literal["checksum", "transformation"]


@dataclass
class TransformationSubmission:
    """A transformation that is to run on the cluster.

    Parameters
    ----------
    transformation_dict
        The prepared transformation: pins are ``(celltype, subcelltype, checksum
        hex)`` tuples; the checksum is None for pins of kind ``"transformation"``.
    inputs
        Pin name to input.
    input_futures
        Pin name to the future that callers obtained for that input.
    tf_checksum
        Checksum of the transformation as hexadecimal digits; None while an input is
        still to be computed.
    tf_dunder
        Data that travels with the transformation but is not part of its identity.
    scratch
        The result's checksum is recorded, its buffer is not uploaded.
    require_value
        The result's buffer, not only its checksum, must be obtainable.
    allow_input_fingertip
        Inputs whose buffer is stored nowhere may be recomputed.
    strict_dunder
        A running submission with another envelope is an error.
    contents
        Small inputs, checksum (hexadecimal) to bytes, which the worker need not fetch.
    script
        Id of the client of the driver script for which a nested transformation runs.
    streams
        Whether its output is shown there while it runs.
    """

    transformation_dict: dict[str, Any]
    inputs: dict[str, TransformationInputSpec]
    input_futures: dict[str, Any]
    tf_checksum: str | None
    tf_dunder: dict[str, Any]
    scratch: bool
    require_value: bool
    allow_input_fingertip: bool = False
    strict_dunder: bool = False
    contents: dict[str, bytes] = field(default_factory=dict)
    script: str | None = None
    streams: bool = False


@dataclass
class TransformationFutures:
    """The handles one caller holds on a submitted transformation.

    Each caller has handles of its own: releasing them never touches another
    caller's.

    Parameters
    ----------
    base
        The Dask future of the task that computes the transformation.
    thin
        Resolves to ``(transformation checksum, result checksum, error)``: hexadecimal
        strings, or None where unknown; error is None or the text of the exception.
    fat
        Resolves to the result's `seamless.Buffer`; None until it is requested.
    tf_checksum
        Checksum of the transformation, when it is known at submission.
    """

    base: Any
    thin: Any
    fat: Any = None
    tf_checksum: str | None = None
    #: the registry entry of the client that made these handles
    entry: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class TransformationResult:
    """Return value of the Dask task of a transformation.

    Parameters
    ----------
    tf_checksum
        Checksum of the transformation (hex), None if it could not be constructed.
    result_checksum
        Checksum of the result (hex), or the marker of a written remote job.
    error
        Text of the exception; None on success.
    content
        The bytes of the result if it is small, so that its recipients need not ask
        the hashserver.
    cached
        The result was in the database already; nothing was executed.
    """

    tf_checksum: str | None
    result_checksum: str | None
    error: str | None = None
    content: bytes | None = None
    cached: bool = False

    def thin(self) -> tuple[str | None, str | None, str | None]:
        """The triple that callers of `TransformationFutures.thin` expect."""
        return self.tf_checksum, self.result_checksum, self.error
