"""The ONNX file: its integer weights, its target, its sizes, and its differences from the original model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dyncompress.types import presentation
from dyncompress.types.certificate import Certificate
from dyncompress.types.network import Array
from dyncompress.types.plan import Plan, Profile
from dyncompress.types.representation import describe, short_repr

SEAL_BYTES = 1_500  # of a budget of bytes, reserved for the seal


@dataclass(frozen=True)
class Encoding:
    """A weight as integers: the float weight is exactly `codes * scale` in float32.

    Attributes:
        codes: int8, `[out, in / groups, *kernel]`, within `[-2**(bits-1), 2**(bits-1) - 1]`, symmetric around zero.
        scale: float32, positive; `[out]` for channels, `[1]` for the tensor, `[out, n_groups]` for groups of inputs.
        bits: width at which the codes are stored, 2 to 8.
        group: number of consecutive inputs (row-major over in / groups and kernel) that share a scale; 0: scales of channels or
            of the tensor.
    """

    codes: Array
    scale: Array
    bits: int
    group: int = 0

    __repr__ = short_repr


@dataclass(frozen=True)
class KernelTimes:
    """The times of a runtime's float and integer kernels on one thread, in nanoseconds.

    A kernel's time is modelled as that of a node, plus terms that are proportional to its outputs (one channel at one position
    each), its positions, its multiplications (MACs), or its kernel's taps. In float, channels count in blocks of 16.

    Attributes:
        float_node, integer_node: of a node that has nothing to do.
        float_element, integer_element: of an element that an Add, Mul, Concat or pooling reads.
        quantize, dequantize: of an element at the border of float and integers, changes of the memory layout included.
        float_mac, float_output: of a convolution or product in float.
        integer_mac, integer_position, integer_tap: of one on integers: of a multiplication, a position, and a tap at a position.
        integer_unaligned: more of a tap at a position where the number of input channels isn't a multiple of 16.
        depthwise_mac, depthwise_output, depthwise_tap: of a depthwise convolution on integers; in float it is as any other.
        depthwise_unaligned: more of a multiplication where the number of channels isn't a multiple of 16.
    """

    float_node: float
    integer_node: float
    float_element: float
    integer_element: float
    quantize: float
    dequantize: float
    float_mac: float
    float_output: float
    integer_mac: float
    integer_position: float
    integer_tap: float
    integer_unaligned: float
    depthwise_mac: float
    depthwise_output: float
    depthwise_tap: float
    depthwise_unaligned: float

    __repr__ = short_repr


@dataclass(frozen=True)
class Target:
    """A hardware profile: what a runtime on a device accepts and runs fast. The TOML file gives the source of every number.

    Attributes:
        name, summary: for lists and messages.
        verified: `runtime` if files for the target were run on such a device, `schema` if only their form was checked.
        opset, ir_version: of the ONNX file.
        activation_dtype: `uint8`, `int8`, or `float32`.
        activation_symmetric: whether the zero point has to be the middle of the range.
        weight_bits: widths in bits that may be stored; `(8,)`: every code takes a whole byte.
        folds_constants: whether the runtime evaluates constant expressions once, when it loads the file; if it doesn't, their
            values are stored.
        weight_symmetric_range: True: codes of 8 bits are in [-127, 127]; False: -128 is allowed too.
        weight_granularity: finest scales that the kernels support: `channel` or `tensor`.
        reduce_range: use 7 of 8 bits for weights, for instruction sets whose 16-bit sums saturate.
        power_of_two_scales: whether scales have to be powers of two.
        static_shapes: whether the batch size has to be fixed.
        channel_multiple: numbers of channels that run fast are multiples of this.
        processor_flags: flags of the processor without which `verified` doesn't hold; empty: none are needed.
        session: onnxruntime session options, key -> value.
        integer_ops: operators that are expected on integer kernels after fusion; a note of the file names those that aren't.
        max_model_bytes: largest size of the file in bytes; 0: no limit.
        kernel_times: by which nodes compute in float where that takes less time; None: every node with an integer kernel uses it.
        forms: of integer products that may be written: `static` quantizes activations on grids from calibration, `dynamic` on
            grids of the values of each run (MatMul, Gemm and LSTM alone, see `deployment.dynamic_form`). With both, the first one
            is written unless the other one is faster on this machine.
        activation_types: element types of activations with integer kernels; empty: `activation_dtype` alone.
        element_types: element types of tensors, inputs and outputs that the runtime reads; empty: all.
        operator_domains: domains of operators that it reads beside ONNX's own.
        refused_operators: operators of ONNX that it doesn't run.
        largest_rank: most axes that a tensor may have; 0: no limit.
        runtime: what reads the files. Times and fused kernels are measured for `onnxruntime` alone.

    Example:
        >>> import dyncompress
        >>> target = dyncompress.load_target("onnxruntime-x86-vnni")
        >>> target.name, target.activation_dtype, target.static_shapes
        ('onnxruntime-x86-vnni', 'uint8', False)
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
    kernel_times: KernelTimes | None = None
    forms: tuple[str, ...] = ("static",)
    activation_types: tuple[str, ...] = ()
    element_types: tuple[str, ...] = ()
    operator_domains: tuple[str, ...] = ()
    refused_operators: tuple[str, ...] = ()
    largest_rank: int = 0
    runtime: str = "onnxruntime"

    __repr__ = short_repr


@dataclass(frozen=True)
class Sizes:
    """The sizes of a file in bytes.

    Attributes:
        file: of the ONNX file.
        compressed: of the ONNX file compressed by zlib.
        resident: of the weights as the runtime stores them in memory.
        payload: of the weights, scales and biases alone, which papers report.
        compute: name of the arithmetic, e.g. `int8`.
        container: of the container; 0: none was made.
    """

    file: int
    compressed: int
    resident: int
    payload: int
    compute: str
    container: int = 0

    __repr__ = short_repr


@dataclass(frozen=True)
class OutputParity:
    """The difference of one output of the file from the same output of the original model.

    Attributes:
        name: of the output.
        relative_error: root mean square difference, divided by the root mean square of the output.
        axis, channel: the channel with the largest error.
        channel_error: root mean square difference of that channel, divided by its standard deviation; nan where channels can't be
            compared.
        file_error: the same for the worst channel, compared with the compressed torch model: the error of integer arithmetic and
            of the export.
        lost: `(axis, channel)` of every channel whose output is unrelated to the original's.
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
    """The differences of the file from the original model.

    Attributes:
        float_error: largest difference between the exported float graph and the compressed torch model, divided by the range.
        relative_error: root mean square difference from the original model, of the output where it is largest.
        agreement: share of examples whose largest output is the original's; nan where outputs aren't scores of classes.
        n: number of examples that were compared, or of what `unit` names.
        outputs: for each output.
        compressed_error, compressed_agreement: `relative_error` and `agreement` in comparison with the compressed torch model.
        divergence: of the first output from the original's: mean KL divergence in nats for scores of classes, else the mean
            squared error divided by the mean square.
        unit: what `n` counts: `examples`, or positions where inputs have several lengths.
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
    """The times of the original's float32 file and of the compressed file on this machine, which run alternately.

    Attributes:
        before, after: median seconds of one run of the float32 file and of the compressed one; nan: nothing was timed.
        ratio: median of before / after over the rounds: how many times faster the compressed file is.
        rounds: number of runs of each file.
        batch, threads: examples and threads of a run.
        processor: name of this machine's processor.
        reason: why nothing was timed; empty: the files were timed.
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
    """One of the files that were made in the search for a file within the budget.

    Attributes:
        bytes: of the file, or of the container where one is made.
        distortion: predicted total of its plan.
        divergence: measured, of its first output from the original's: KL divergence in nats for scores of classes, else the mean
            squared error divided by the mean square.
        chosen: whether this file is the result.
    """

    bytes: int
    distortion: float
    divergence: float
    chosen: bool = False

    __repr__ = short_repr


@dataclass(frozen=True)
class OnnxFile:
    """A finished ONNX file in memory; `save` writes it.

    Attributes:
        body: the bytes of the file without the seal.
        plan: what was applied.
        sizes: of the file.
        float_bytes: size in bytes of the original's float32 file.
        parity: differences from the original model.
        fused: operator -> (number on integer kernels, total number), from onnxruntime's optimized graph; empty: not audited.
        macs: multiply-accumulates of one example, of the original and of the compressed model.
        stages: stage -> divergence. After `prune`, `weights` and `match` it is measured from the original; after `export` (the
            float graph) and `activations` (the finished file), from the compressed model.
        target: that the file was written for.
        notes: warnings for the user.
        certificate: None: the file isn't certified.
        sealed: the bytes of the file with the seal; empty without a certificate.
        seen: sha256 digests of the examples that the compression has seen.
        errors: layer -> relative errors of its output after pruning and after rounding.
        packed: the container of `content`; empty: none was made.
        profile: what was measured of the model; None: `compress` didn't make the file, or applied a plan.
        speed: None: `compress` didn't make the file.
        candidates: the files that were made in the search for the budget, this one among them; empty: there was no search.
        float_body: the original's float32 ONNX file, if `compress` was called with `keep_float=True`.
        inputs: input name -> shape: a number for an axis of fixed length, a word for a free one.

    Example:
        >>> import dyncompress, onnxruntime, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x = torch.randn(64, 64)
        >>> file = dyncompress.compress(network, "edge-int8", calibration=x)
        >>> file.sizes.file < file.float_bytes / 2
        True
        >>> session = onnxruntime.InferenceSession(file.content, providers=["CPUExecutionProvider"])
        >>> session.run(None, {session.get_inputs()[0].name: x[:1].numpy()})[0].shape
        (1, 8)
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
        shown = {"recipe": self.plan.recipe, "target": self.target.name, "bytes": len(self.shipped), "of": self.float_bytes}
        return describe(self, **shown, container=bool(self.packed), certified=self.certificate is not None)

    @property
    def content(self) -> bytes:
        """The bytes of the ONNX file: with the seal if there is a certificate."""
        return self.sealed or self.body

    @property
    def shipped(self) -> bytes:
        """The bytes that are shipped: the container if there is one, else `content`."""
        return self.packed or self.content

    def save(self, path: str | Path) -> Path:
        """Write the file with its certificate, or a directory with all results; if an error occurs, nothing is written.

        Args:
            path: a file or a directory. A file, `small.onnx`, or `small.dync` for the container, is written together with its
                certificate `small.certificate.json`, which `dyncompress verify small.onnx` reads. A directory is one that exists,
                or a path that ends in a separator or has no suffix. It gets `model.onnx`, `plan.toml`, `report.html` and, if they
                exist, `model.dync`, `certificate.json`, `profile.json` and `model.float32.onnx`.

        Returns:
            The path of the file; for a directory, that of its `model.onnx`.

        Raises:
            InvalidRequest: there is no container, or the path can't be written.
        """
        return presentation.save(self, path)

    def _repr_html_(self) -> str:
        return presentation.html(self)
