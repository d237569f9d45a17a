"""The result of checking an ONNX file against a target: findings, and the precision that is really in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dyncompress.types.representation import short_repr

SEVERITIES = ("refused", "float", "slow", "note")  # most serious first
LONGEST_PLACE = 49  # characters of a name in a table
FILE = "(file)"  # place of a finding that is about the file as a whole


@dataclass(frozen=True)
class Finding:
    """One thing that the target does with the file and that its author may not expect.

    Attributes:
        severity: `refused`, the runtime doesn't read it; `float`, it computes in float; `slow`, it takes more time than the same
            file in float; `note`, everything else.
        place: name of the node, of its first output if it has no name, of a tensor, or `(file)`.
        operator: of the node; empty for tensors and the file.
        sentence: what happens, and what to change.
    """

    severity: str
    place: str
    operator: str
    sentence: str

    __repr__ = short_repr

    @property
    def row(self) -> tuple[str, str, str, str]:
        """The fields as cells of a table, with the end of a long name alone.

        Example:
            >>> Finding("note", "model/" * 20 + "conv", "Conv", "...").row[1]
            '...model/model/model/model/model/model/model/conv'
        """
        shown = self.place if len(self.place) <= LONGEST_PLACE else f"...{self.place[3 - LONGEST_PLACE :]}"
        return self.severity, shown, self.operator, self.sentence


@dataclass(frozen=True)
class Precision:
    """The number formats that a file really holds and computes in.

    Attributes:
        stored_bytes: element type, e.g. `int8` -> bytes of the file's constant tensors of that type.
        integer_share: share of the work of convolutions and matrix products that runs on integer kernels; nan: there is none.
        share_of: what the share counts: `multiply-accumulates`, or `weight bytes` where shapes are unknown, followed by ` of the
            main graph` if branches or loop bodies hold others.
        activations: whether activations are quantized.
    """

    stored_bytes: Mapping[str, int] = field(default_factory=dict)
    integer_share: float = float("nan")
    share_of: str = "multiply-accumulates"
    activations: bool = False

    __repr__ = short_repr

    @property
    def text(self) -> str:
        """The bytes and the share in two lines.

        Example:
            >>> print(Precision({"int8": 9000, "float32": 100}, 0.75, activations=True).text)
            bytes of constants by type: int8 9,000, float32 100
            75 % of the multiply-accumulates run on integer kernels; activations are quantized.
        """
        stored = ", ".join(f"{kind} {size:,}" for kind, size in self.stored_bytes.items()) or "none"
        share = f"{100 * self.integer_share:.0f} % of the {self.share_of} run on integer kernels"
        if math.isnan(self.integer_share):
            share = "the main graph has no convolution or matrix product"
        return f"bytes of constants by type: {stored}\n{share}; activations are {'' if self.activations else 'not '}quantized."


@dataclass(frozen=True)
class TargetReport:
    """What a target does with a file.

    Attributes:
        target: name of the target.
        findings: most serious first, and in the order of the nodes.
        precision: of the file.
        loaded_by: name and version of the runtime that loaded the file here; empty: the rules alone were applied.
    """

    target: str
    findings: tuple[Finding, ...]
    precision: Precision
    loaded_by: str = ""

    __repr__ = short_repr

    @property
    def refused(self) -> bool:
        """Whether the target refuses the file or a part of it.

        Example:
            >>> TargetReport("t", (Finding("note", "(file)", "", "..."),), Precision()).refused
            False
        """
        return any(finding.severity == "refused" for finding in self.findings)
