"""The ONNX file: integer weights, the target it is written for, its sizes, and how far it is from the model that came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dyncompress.types import presentation
from dyncompress.types.certificate import Certificate
from dyncompress.types.network import Array
from dyncompress.types.plan import Plan, Profile
from dyncompress.types.representation import describe, short_repr

SEAL_BYTES = 1_500  # reserved for the seal in the budget of bytes


@dataclass(frozen=True)
class Encoding:
    """An integer weight. The weight it stands for is exactly `codes * scale` in float32.

    Attributes:
        codes: int8, `[out, in / groups, *kernel]`, within `[-2**(bits-1), 2**(bits-1) - 1]`, symmetric around zero.
        scale: float32, positive; `[out]` for channels, `[1]` for the tensor, `[out, n_groups]` for groups of inputs.
        bits: 2 to 8: the width at which the codes are stored.
        group: number of consecutive inputs (row-major over in / groups and kernel) sharing a scale; 0: not by groups.
    """

    codes: Array
    scale: Array
    bits: int
    group: int = 0

    __repr__ = short_repr


@dataclass(frozen=True)
class Target:
    """A hardware profile: what a runtime on a device accepts and runs well. Each number's source stands in the TOML file.

    Attributes:
        name, summary: for the list.
        verified: `runtime` if files for it were run on such a device, `schema` if only their form was checked.
        opset, ir_version: of the ONNX file.
        activation_dtype: `uint8`, `int8`, or `float32`.
        activation_symmetric: whether the zero point must be the middle of the range.
        weight_bits: widths that may be stored; with 8 alone, every code is a whole byte.
        folds_constants: whether the runtime computes once, at load, what depends on constants alone; else it is written out.
        weight_symmetric_range: True keeps codes in [-127, 127] at 8 bits; False allows -128 too.
        weight_granularity: finest scales the kernels take: `channel` or `tensor`.
        reduce_range: 7-bit weights at 8 bits (instruction sets whose 16-bit sums saturate).
        power_of_two_scales: whether scales must be powers of two.
        static_shapes: whether the batch size must be fixed.
        channel_multiple: widths that run well are multiples of this.
        processor_flags: flags that the processor must show for `verified` to hold; empty: any.
        session: onnxruntime session options, key -> value.
        integer_ops: operators expected on integer kernels after fusion; a note of the file tells which aren't.
        max_model_bytes: largest file; 0: no limit.
    """

    name: str
    summary: str
    verified: str
    opset: int = 21
    ir_version: int = 10
    activation_dtype: str = "uint8"
    activation_symmetric: bool = False
    weight_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    folds_constants: bool = True
    weight_symmetric_range: bool = True
    weight_granularity: str = "channel"
    reduce_range: bool = False
    power_of_two_scales: bool = False
    static_shapes: bool = False
    channel_multiple: int = 8
    processor_flags: tuple[str, ...] = ()
    session: Mapping[str, str] = field(default_factory=dict)
    integer_ops: tuple[str, ...] = ("Conv", "Gemm", "MatMul", "Add")
    max_model_bytes: int = 0

    __repr__ = short_repr


@dataclass(frozen=True)
class Sizes:
    """Honest sizes, in bytes: the file; the file under zlib; the weights as the runtime keeps them; of the payload alone
    (weights, scales, biases) for comparison with papers; and of the container, where one was made. `compute` names the
    arithmetic."""

    file: int
    compressed: int
    resident: int
    payload: int
    compute: str
    container: int = 0

    __repr__ = short_repr


@dataclass(frozen=True)
class OutputParity:
    """One output, named, of the file against the same output of the model that came in.

    Attributes:
        relative_error: root mean square difference, relative to the output's own root mean square.
        axis, channel: of the channel with the largest error.
        channel_error: that channel's root mean square difference, relative to its spread; nan where channels can't be judged.
        file_error: the same of the worst channel against the compressed torch model: what integers and the export did.
        lost: channels of which nothing is left, `(axis, channel)` each.
    """

    name: str
    relative_error: float
    axis: int = 0
    channel: int = 0
    channel_error: float = float("nan")
    file_error: float = float("nan")
    lost: tuple[tuple[int, int], ...] = ()

    __repr__ = short_repr


@dataclass(frozen=True)
class Parity:
    """How far the shipped file is from the model that came in.

    Attributes:
        float_error: largest difference between the exported float graph and the compressed torch model, relative to the range.
        relative_error: of the output with the largest one; root mean square, against the model that came in.
        agreement: share of examples with the same largest output as that model's; nan where outputs aren't scores.
        n: examples compared; `unit` names what else counts, positions where the inputs have several lengths.
        outputs: one by one, each with its worst channel.
        compressed_error, compressed_agreement: as the two above, against the compressed torch model.
        divergence: of the first output from that of the model that came in: mean KL in nats for scores, else the relative mean
            squared error.
    """

    float_error: float
    relative_error: float
    agreement: float
    n: int
    outputs: tuple[OutputParity, ...] = ()
    compressed_error: float = float("nan")
    compressed_agreement: float = float("nan")
    divergence: float = float("nan")
    unit: str = "examples"

    __repr__ = short_repr


@dataclass(frozen=True)
class Speed:
    """How long one run of the original's float32 file and of the shipped one takes on this machine, measured in turn.

    Attributes:
        before, after: median seconds of one run; nan where nothing was timed.
        ratio: median over the rounds of before / after: how many times faster the shipped file is.
        rounds: runs of each file.
        batch, threads: examples and threads of a run.
        processor: of this machine, by name.
        reason: why nothing was timed; empty: it was.
    """

    before: float = float("nan")
    after: float = float("nan")
    ratio: float = float("nan")
    rounds: int = 0
    batch: int = 1
    threads: int = 1
    processor: str = ""
    reason: str = ""

    __repr__ = short_repr


@dataclass(frozen=True)
class Candidate:
    """One file that was made in the search for the one that keeps the budget.

    Attributes:
        bytes: that would ship.
        distortion: predicted for its plan, in all.
        divergence: measured, of its first output from the original's: KL in nats for scores, else relative squared error.
        chosen: whether it is the file that came out.
    """

    bytes: int
    distortion: float
    divergence: float
    chosen: bool = False

    __repr__ = short_repr


@dataclass(frozen=True)
class OnnxFile:
    """A finished ONNX file.

    Attributes:
        body: the bytes without the seal.
        plan: what was done.
        sizes: of the file.
        float_bytes: of the original's float32 file.
        parity: against the model that came in.
        fused: operator -> (on an integer kernel, in all), from onnxruntime's own optimized graph; empty if not audited.
        macs: original and compressed, one example.
        stages: divergence from the original after prune, weights and match; from the compressed model after export (the float
            graph) and activations (the shipped file).
        target: the profile it was written for.
        notes: warnings for the user.
        certificate: or None.
        seen: sha256 digests of the examples that compression saw.
        errors: layer -> relative error of its output after pruning and after rounding.
        packed: the container of `content`, where one was made.
        profile: what was measured of the model, where `compress` measured it or was given it.
        speed: of one run before and after, on this machine; None where `compress` didn't make the file.
        candidates: the files that were made for the budget, this one among them; empty where there was no search.
        inputs: name -> shape, a number where an axis is fixed and a word where it takes any length.
        float_body: the original's float32 ONNX file, where `compress(..., keep_float=True)` was asked to keep it.
    """

    body: bytes
    plan: Plan
    sizes: Sizes
    float_bytes: int
    parity: Parity
    fused: Mapping[str, tuple[int, int]]
    macs: tuple[int, int]
    stages: Mapping[str, float]
    target: Target
    notes: tuple[str, ...] = ()
    certificate: Certificate | None = None
    sealed: bytes = b""
    seen: frozenset[str] = frozenset()
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    packed: bytes = b""
    profile: Profile | None = field(default=None, repr=False, compare=False)
    speed: Speed | None = field(default=None, repr=False, compare=False)
    candidates: tuple[Candidate, ...] = field(default=(), repr=False, compare=False)
    float_body: bytes = field(default=b"", repr=False, compare=False)
    inputs: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        told = {"recipe": self.plan.recipe, "target": self.target.name, "bytes": len(self.shipped), "of": self.float_bytes}
        return describe(self, **told, container=bool(self.packed), certified=self.certificate is not None)

    @property
    def content(self) -> bytes:
        """The bytes to ship: sealed where there is a certificate."""
        return self.sealed or self.body

    @property
    def shipped(self) -> bytes:
        """What travels: the container where there is one, else the file itself."""
        return self.packed or self.content

    def save(self, path: str | Path) -> Path:
        """Write the file with its certificate beside it, or a directory of all results: all of it, or nothing.

        Args:
            path: a file: `small.onnx`, or `small.dync` for the container; the certificate goes to `small.certificate.json`, where
                `dyncompress verify small.onnx` looks for it. Or a directory (one that exists, or a path that ends in a separator
                or has no suffix): it gets `model.onnx`, `plan.toml`, `report.html`, and where there are such, `model.dync`,
                `certificate.json`, `profile.json` and `model.float32.onnx`.

        Returns:
            the path of the file; in a directory, that of its `model.onnx`.

        Raises:
            InvalidRequest: no container was made, or the place can't be written.
        """
        return presentation.save(self, path)

    def _repr_html_(self) -> str:
        return presentation.html(self)
