# pyright: reportReturnType=false
# (the methods of Protocols have no bodies)
"""The nouns: frozen dataclasses that every room speaks, and the Protocols of what may be plugged in.

Arrays inside `Observation` and `Encoding` are the door's own (torch tensors on their device, or numpy). Weights have one
layout everywhere: `(out, in / groups, *kernel)`; the doors translate. Nothing here computes. One long file on purpose: it is the
vocabulary, and every room imports it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dyncompress.errors import InvalidRequest

Array = Any  # torch.Tensor on its device, or numpy.ndarray
Batch = Mapping[str, Array]  # inputs by name, each [n, ...]

FLOAT_BITS = 32  # the width that stands for "left in float32"
CHANNELS = "channels:"  # prefix of a unit that is a channel group
BLOCKS = "block:"  # prefix of a unit that is a residual block; units without a prefix are layers
STRUCTURE = (CHANNELS, BLOCKS)


# ---------------------------------------------------------------- the model, layer by layer
@dataclass(frozen=True)
class Layer:
    """One weight of the model and what is known about it without data.

    Attributes:
        name: the model's own name, e.g. `layer1.0.conv1`.
        kind: `conv1d`, `conv2d`, `conv3d`, `conv_transpose1d`, `conv_transpose2d`, `linear`, `embedding`, or the class name
            of a module whose weights are left alone.
        shape: of the weight, `(out, in / groups, *kernel)`.
        macs: multiply-accumulates of one example.
        groups: convolution groups.
        group: name of the set of layers whose output channels are removed together; empty: they can't be removed.
        left_alone: why the weight can't be compressed at all; empty: it can.
        fixed_channels: why its output channels can't be removed; empty: they can.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    groups: int = 1
    group: str = ""
    left_alone: str = ""
    fixed_channels: str = ""

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))

    @property
    def out(self) -> int:
        """Number of output channels (rows of the weight)."""
        return self.shape[0]

    @property
    def fan_in(self) -> int:
        """Inputs of one output: the length of a row of the weight as a matrix."""
        return self.weights // max(self.shape[0], 1)


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channels can only be removed together.

    Attributes:
        name: stands in `Layer.group` of the producers.
        size: number of channels.
        producers: layers whose rows go (a depthwise layer in between is one of them).
        consumers: layer -> how many consecutive columns of its weight matrix `(out, in / groups * kernel)` one channel owns;
            channel c owns columns `c * n` to `(c + 1) * n`.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: Mapping[str, int]


@dataclass(frozen=True)
class ResidualBlock:
    """A part of the network that returns act(shortcut + y), y the output of its last layer.

    Attributes:
        name: of the part.
        layers: inside it, in forward order.
        closing: the layer whose output is added to the shortcut.
        identity: whether the shortcut is exactly what comes in.
        droppable: whether the shortcut alone can take its place; tried on a copy.
        relu: whether a ReLU stays in its place.
        follows: the block whose output it takes as it is; empty: none.
    """

    name: str
    layers: tuple[str, ...]
    closing: str
    identity: bool
    droppable: bool
    relu: bool = False
    follows: str = ""


@dataclass(frozen=True)
class Placement:
    """Where one use of a layer's weight lies in the ONNX file: the initializer's name, and its layout.

    `as_is`: `(out, in / groups, *kernel)`; `transposed`: two axes, `(in, out)`; `conv_transpose`: `(in, out / groups, *kernel)`.
    """

    initializer: str
    layout: str = "as_is"


# ---------------------------------------------------------------- what may be known about a layer
@dataclass(frozen=True)
class Weight:
    """The weight, `[out, in / groups, *kernel]`."""


@dataclass(frozen=True)
class Bias:
    """The bias, `[out]`, or None."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of W W^T, float64, ascending, not divided by anything.

    view `slices`: a list, one array for each kernel position's `(out, in)` matrix; `flat`: a list with one array, of the
    `(out, in * kernel)` matrix; `windows`: a list, one array for each square window of FARMS.
    """

    view: str = "slices"


@dataclass(frozen=True)
class InputMoment:
    """Second moment of the layer's inputs, `[groups, fan_in, fan_in]`: the mean of x x^T over examples and positions."""


@dataclass(frozen=True)
class OutputFisher:
    """`[out]`: what the square of an output error costs: half of sum_c fisher_c * E[e_c^2] predicts the KL divergence, in nats,
    of an error e (e_c^2 averaged over examples and positions) of which a twentieth of the power is alike at all positions.
    That is 0.95 E[sum_p g_p^2] + 0.05 E[(sum_p g_p)^2], g_p the gradient of the log-likelihood at position p."""


@dataclass(frozen=True)
class OutputMoments:
    """`(mean, std)`, each `[out]`, of the layer's output over examples and positions."""


@dataclass(frozen=True)
class NoiseGain:
    """`(cushion, gain)`, each `[examples]`, float64, of an example's way through the layer and on to the output.

    cushion: ||W X||_F / (||W||_F ||X||_F), X the example's inputs of all positions as columns.
    gain: relative size at the network's output of white noise of relative size 1 at the layer's output y, to first order:
    ||J||_F ||y|| / (sqrt(size of y) ||f||), J the derivative of the outputs f by y.
    """


@dataclass(frozen=True)
class HessianSpectrum:
    """`(values, counts)`, each `[batches, nodes]`, float64: eigenvalues of the layer's own block of the loss's Hessian, batch by
    batch, and how many directions each stands for (counts add up to the layer's weights, or are zero where nodes are missing).

    The loss is the cross-entropy with the model's own answers as labels (mean over examples); where outputs aren't scores, half
    the squared distance to the outputs themselves. Eigenvalues are exact where the layer has at most `nodes` weights, else
    nodes of stochastic Lanczos quadrature.
    """

    nodes: int = 20
    batches: int = 4


@dataclass(frozen=True)
class Motion:
    """Per-weight statistics of the late training trajectory: a `WeightMotion`."""


@dataclass(frozen=True)
class WeightFisher:
    """Fisher information of every weight, read off its late increments: half of an error's square times it is harm, in nats where
    the trajectory tells so much, shaped as the weight."""


@dataclass(frozen=True)
class Iterates:
    """`[T, d]` late iterates of the weights, in order and at equal distances in time, or linear sketches of them."""


@dataclass(frozen=True)
class ExampleLosses:
    """`[T, n]` losses of the same n examples under each of T late iterates."""


@dataclass(frozen=True)
class Gradients:
    """`[T, d]` minibatch gradients along the late iterates, or linear sketches of them; rows of nan where none is known."""


OfModels = Weight | Bias | Spectrum | InputMoment | OutputFisher | OutputMoments | NoiseGain | HessianSpectrum
OfTrajectories = Motion | WeightFisher | Iterates | ExampleLosses | Gradients  # what a recorded run gives, and no model
Need = OfModels | OfTrajectories


@dataclass(frozen=True)
class Observation:
    """The closed list of what is known about one layer; `observation[InputMoment()]` reads one entry."""

    layer: Layer
    values: Mapping[Need, Any]

    def __getitem__(self, need: Need) -> Any:
        """The array of `need`.

        Raises:
            InvalidRequest: it was not collected; the message names the need to add.
        """
        if need not in self.values:
            raise InvalidRequest(f"layer '{self.layer.name}': {need!r} was not collected; add it to the observation's needs.")
        return self.values[need]

    def __contains__(self, need: Need) -> bool:
        """Whether `need` was collected."""
        return need in self.values


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the estimate.
        stderr: its standard error (nan where no theory gives one; `notes` then says so).
        n: how many data points entered.
        fit: goodness of fit of the model behind the estimator, e.g. a Kolmogorov-Smirnov distance; nan if it has none.
        valid: False where the estimator's own conditions fail; `notes` says which.
        notes: sentences for the report.
    """

    value: float
    stderr: float
    n: int
    fit: float = float("nan")
    valid: bool = True
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------- trajectories
@dataclass(frozen=True)
class WeightMotion:
    """Welford moments of one layer's late iterates, in the weight's own layout.

    Attributes:
        mean: `[out, in / groups, *kernel]` mean of the recorded iterates.
        variance, increment_variance: the same shape; of the iterates (holds the drift), and of the increments between them.
        count: number of recorded iterates.
    """

    mean: np.ndarray
    variance: np.ndarray
    increment_variance: np.ndarray
    count: int


@dataclass(frozen=True)
class Trajectory:
    """What was recorded of a training run.

    Attributes:
        steps: `[T]` optimizer steps at which weights were recorded.
        losses: `[T]` training losses at these steps (nan where none was given).
        motion: by layer.
        sketches: by layer, `[T, d]` seeded sign-block sketches of the iterates.
        seed: of the sketches.
        digest: sha256 of the weights it belongs to, the last recorded ones where nothing else was told; a trajectory that isn't
            the model's is refused.
        learning_rate, batch_size: of the recorded phase; nan and 0 where not told.
        gradients: by layer, `[T, d]` sketches, with the same signs, of the minibatch gradients of these steps; a row is nan where
            none was known; empty where none was asked for.
        losses_per_example, notes: `[T, n]` losses of the same n examples at every record, or None; how it was made.
    """

    steps: np.ndarray
    losses: np.ndarray
    motion: Mapping[str, WeightMotion]
    sketches: Mapping[str, np.ndarray]
    seed: int
    digest: str
    learning_rate: float = float("nan")
    batch_size: int = 0
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)
    losses_per_example: np.ndarray | None = None
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------- choices, budgets, plans
@dataclass(frozen=True)
class Distillation:
    """How the original is distilled into what is compressed, without labels; the fields are the keys of a recipe's `[distill]`.

    Attributes:
        epochs: passes over the calibration examples; 0: none.
        rate: of Adam, at its height: in log gains, and in standard deviations of the outputs.
        batch: examples a step.
        shift: pixels by which images are moved at random, and flipped where `targets.mirrored` is true; 0: neither.
        mix: images become (1 - a) image + a another, a drawn from [0, mix]; 0: they stay.
        held_out: share of the examples kept aside to choose among the epochs.
        weight_epochs: passes in which all weights learn, while they are float: once structure was removed, before rounding, or
            under the zeros of a plan that doesn't round; 0: none.
        weight_rate: of Adam, at its height, while they do: in root mean squares of the layer's weights.
    """

    epochs: int = 0
    rate: float = 0.01
    batch: int = 128
    shift: int = 2
    mix: float = 1.0
    held_out: float = 0.125
    weight_epochs: int = 0
    weight_rate: float = 0.003


@dataclass(frozen=True)
class Choice:
    """What is done to one unit. The defaults mean: leave it as it is.

    Attributes:
        keep, indices: number of output channels kept (None: all), and which ones, once realised.
        drop: of a residual block: whether only its shortcut stays.
        rank: of a layer that becomes two thin ones, with so many channels between them; None: it stays one.
        sparsity: share of zeros, in [0, 1).
        pattern: `2:4` or another n:m (n of every m weights kept); empty: unstructured.
        weight_bits: 2 to 8, or 32 for float.
        step: of entropy-coded weights, which are stored at 8 bits until they are packed: rounding one costs step^2 / 24 nats,
            expected; 0: a fixed width.
        granularity: of the scales: `tensor`, `channel`, or `group:N` (N consecutive inputs of a row share a scale).
        activation_bits: 8 or 32, of the layer's input.
        method: name of the pruner and quantizer that realised it.
    """

    keep: int | None = None
    indices: tuple[int, ...] | None = None
    drop: bool = False
    rank: int | None = None
    sparsity: float = 0.0
    pattern: str = ""
    weight_bits: int = FLOAT_BITS
    step: float = 0.0
    granularity: str = "channel"
    activation_bits: int = FLOAT_BITS
    method: str = ""

    def __str__(self) -> str:
        """A short reading, e.g. `4 bits, 50 % zeros`."""
        parts = []
        if self.keep is not None:
            parts.append(f"{self.keep} channels")
        if self.drop:
            parts.append("dropped")
        if self.rank is not None:
            parts.append(f"rank {self.rank}")
        if self.step:
            parts.append(f"step {self.step:.3g}, entropy-coded")
        elif self.weight_bits != FLOAT_BITS:
            parts.append(f"{self.weight_bits} bits" + ("" if self.granularity == "channel" else f" per {self.granularity}"))
        if self.sparsity:
            parts.append(f"{100 * self.sparsity:.0f} % zeros" + (f" ({self.pattern})" if self.pattern else ""))
        return ", ".join(parts) or "float"


@dataclass(frozen=True)
class WeightChange:
    """What a choice does to a layer's weight, whatever harm comes of it.

    Attributes:
        energy: sum of squares of the weight.
        error: squared error after pruning and rounding, relative to `energy`.
        threshold: of as many smallest weights as the choice zeroes, the largest magnitude; 0 where it zeroes none.
        left: sum of squares of that weight and of all larger ones.
    """

    energy: float
    error: float
    threshold: float
    left: float


@dataclass(frozen=True)
class Option:
    """One line of a unit's table: a choice, what it costs, and the harm it is expected to do.

    Attributes:
        choice: the choice.
        bytes: in the shipped file, of this unit alone.
        macs: of this unit, one example.
        distortion: expected harm; in nats of KL divergence where `source` is fisher or probe, else in relative units.
        stderr: of the distortion; nan if unknown.
        seconds: of one run on the target, against the unit left as it is (negative: saved); 0 where none was measured.
        nonzeros: weights of this layer that aren't zero; nan for channels and blocks.
        change: what happens to the weight; None where nothing was compared, and for channels and blocks.
    """

    choice: Choice
    bytes: float
    macs: float
    distortion: float
    stderr: float = float("nan")
    seconds: float = 0.0
    nonzeros: float = float("nan")
    change: WeightChange | None = None


@dataclass(frozen=True)
class Budget:
    """What can be afforded. A number below 1 is a fraction of the original; `sparsity` and `risk_increase` always are fractions.

    Attributes:
        bytes: of the shipped ONNX file, every byte of it.
        macs: multiply-accumulates of one example.
        seconds: of one run on the target.
        sparsity: share of zeros, at least, among all weights of the layers that are chosen for (each rounds to whole weights).
        distortion: harm in all (nats of KL divergence from the original, where harms come from Fisher information or probes); the
            smallest file that does no more is made; not looked at where bytes are given. `allocate` spends predicted harm;
            `compress` carries the plan out once, measures the divergence, and spends as much harm as makes that. An indicator.
        risk_increase: largest certified increase of the risk.
    """

    bytes: float | None = None
    macs: float | None = None
    seconds: float | None = None
    sparsity: float | None = None
    distortion: float | None = None
    risk_increase: float | None = None


@dataclass(frozen=True)
class Profile:
    """What was measured of a model for one recipe and target; any number of budgets can be solved from it.

    Attributes:
        layers: all layers, also those left alone.
        estimates: measure -> layer -> Estimate.
        table: unit -> its options, from the most careful to the boldest. A unit is a layer's name, or `channels:GROUP`.
        source: unit -> where its distortions come from: `fisher`, `probe`, `theory`, `trajectory`; `only choice` where there was
            nothing to compare.
        reasons: layer -> why it is left alone.
        float_bytes: of the original's float32 ONNX file, stripped.
        fixed_bytes: of the shipped file that no choice changes (graph, names, seal).
        macs: of the original, one example.
        digest: of the model's weights.
        recipe, target: names.
        notes: warnings for the user.
        seconds: one run of the original's float32 file on the target; 0: not measured.
        whole_seconds: the same of the file in the shipped form with nothing removed.
    """

    layers: tuple[Layer, ...]
    estimates: Mapping[str, Mapping[str, Estimate]]
    table: Mapping[str, tuple[Option, ...]]
    source: Mapping[str, str]
    reasons: Mapping[str, str]
    float_bytes: int
    fixed_bytes: int
    macs: int
    digest: str
    recipe: str
    target: str
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    whole_seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Unit -> Choice, with the reasons. A text file that a person can edit and apply again.

    Attributes:
        asked: unit -> the choice that was allocated (or edited).
        realised: unit -> what was done; empty until applied.
        why: unit -> a sentence.
        reasons: layer -> why it is left alone.
        cost: `bytes` and `macs` as predicted.
        distortion: predicted, in all.
        gap: how far the plan may be from the best one of the additive table, as a share of the distortion's range.
        recipe, target: names.
        digest: of the model's weights, the only ones that a plan is applied to; empty: unknown, layers have to agree.
        shapes: layer -> shape of its weight: what an edit is checked against.
        share_left_alone: `weights` and `macs`, fractions.
        notes: warnings for the reader, e.g. that the target was never run on its own hardware; comments in the file.
        source: of a plan read from a file: (table, key, ...) -> `plan.toml line 41`, for messages; () -> the file's name.
    """

    asked: Mapping[str, Choice]
    why: Mapping[str, str]
    reasons: Mapping[str, str]
    cost: Mapping[str, float]
    distortion: float
    gap: float
    recipe: str
    target: str
    digest: str
    shapes: Mapping[str, tuple[int, ...]]
    share_left_alone: Mapping[str, float]
    realised: Mapping[str, Choice] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: Mapping[tuple[str, ...], str] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        """A line a unit: what was chosen, and why."""
        width = max((len(unit) for unit in self.asked), default=0)
        done = {**self.asked, **self.realised}
        lines = [f"{unit:{width}}  {choice}: {self.why.get(unit, '')}" for unit, choice in done.items()]
        return "\n".join([*lines, *(f"{layer:{width}}  left alone: {reason}" for layer, reason in self.reasons.items())])

    def with_realised(self, realised: Mapping[str, Choice]) -> Plan:
        """The same plan with what was done beside what was asked."""
        return replace(self, realised=dict(realised))


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


@dataclass(frozen=True)
class Compressed:
    """A compressed model before export.

    Attributes:
        model: the door's model, weights equal to the encodings' values.
        encodings: layer -> Encoding, for the layers stored as integers.
        plan: with what was realised.
        stages: `prune`, `weights`, `match`, `teach`, `distil` -> divergence from the original after that stage, on calibration
            data; `teach` comes first where the plan rounds.
        calibration: the batches used, for activation ranges at export.
        errors: layer -> relative error of its output, on its own inputs, after pruning and after rounding.
        activation_share: of the examples that activation ranges hold whole, where the outputs bear it.
        aside: batches that nothing was fitted on, which parity is measured on first.
    """

    model: Model
    encodings: Mapping[str, Encoding]
    plan: Plan
    stages: Mapping[str, float]
    calibration: Sequence[Batch]
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    activation_share: float = 0.98
    aside: Sequence[Batch] = ()

    @property
    def module(self) -> Any:
        """The compressed network in its own framework, e.g. a `torch.nn.Module`."""
        return self.model.module


# ---------------------------------------------------------------- targets and files
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


@dataclass(frozen=True)
class Parity:
    """How far the shipped file is from the model that came in.

    Attributes:
        float_error: largest difference between the exported float graph and the compressed torch model, relative to the range.
        relative_error: of the output with the largest one; root mean square, against the model that came in.
        agreement: share of examples with the same largest output as that model's; nan where outputs aren't scores.
        n: examples compared.
        outputs: one by one, each with its worst channel.
        compressed_error, compressed_agreement: as the two above, against the compressed torch model.
    """

    float_error: float
    relative_error: float
    agreement: float
    n: int
    outputs: tuple[OutputParity, ...] = ()
    compressed_error: float = float("nan")
    compressed_agreement: float = float("nan")


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

    @property
    def content(self) -> bytes:
        """The bytes to ship: sealed where there is a certificate."""
        return self.sealed or self.body

    @property
    def shipped(self) -> bytes:
        """What travels: the container where there is one, else the file itself."""
        return self.packed or self.content

    def save(self, path: str | Path) -> Path:
        """Write the file whole or not at all; its container where the name ends in `.dync`.

        Raises:
            InvalidRequest: no container was made.
        """
        path = Path(path)
        container = path.suffix == ".dync"
        if container and not self.packed:
            raise InvalidRequest(f"{path}: this file has no container; save it as .onnx, and `dyncompress pack` that.")
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes(self.packed if container else self.content)
        return temporary.replace(path)


# ---------------------------------------------------------------- promises
@dataclass(frozen=True)
class HeldOut:
    """Examples that compression never saw.

    Attributes:
        inputs: by name, each `[n, ...]`, numpy.
        labels: `[n]` or more, or None.
        groups: `[n]`: examples of one group aren't independent (speaker, document); or None.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of examples."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Interval:
    """Both ends of a bound at confidence 1 - delta (a one-sided bound leaves the other end at the range's limit)."""

    point: float
    lower: float
    upper: float
    delta: float
    n: int
    method: str


@dataclass(frozen=True)
class Line:
    """One line of a certificate: a quantity and its bound, with its share of delta."""

    quantity: str
    point: float
    lower: float
    upper: float
    delta: float
    method: str


@dataclass(frozen=True)
class Certificate:
    """Data only. `pipeline.verify` recomputes it.

    Attributes:
        statement: one plain sentence: which risk, which population, which confidence.
        kind: `statistical` or `exact on the given inputs`.
        lines: the certified lines; their deltas add up to `delta` at most.
        delta: probability that any line fails.
        n: independent units; counts: e.g. `worse`, `better`, `original_errors`, `file_errors`.
        assumptions: sentences.
        valid_as: `alone` or the number of the look at this held-out set.
        selection: the path of plans and what fixed-sequence testing did on it; empty where nothing was chosen.
        environment: runtime, version, processor flags, threads.
        digests: of examples, labels, original model, compressed model, file body.
        context: printed beside and bounding nothing: code-length bounds, indicators.
        evidence: per-example losses of the original as hex, with digests.
    """

    statement: str
    kind: str
    lines: tuple[Line, ...]
    delta: float
    n: int
    counts: Mapping[str, int]
    assumptions: tuple[str, ...]
    valid_as: str
    selection: Mapping[str, Any]
    environment: Mapping[str, str]
    digests: Mapping[str, str]
    context: Mapping[str, Any]
    evidence: Mapping[str, str]
    kept: bool
    risk: str
    promise: float | None = None

    def __str__(self) -> str:
        """The statement."""
        return self.statement


# ---------------------------------------------------------------- edits of a model
@dataclass(frozen=True)
class SetWeight:
    """Replace the weight (and the bias, if given) of a layer."""

    layer: str
    weight: Array
    bias: Array | None = None


@dataclass(frozen=True)
class Keep:
    """Keep these output channels of every layer of a group, and what depends on them."""

    group: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Affine:
    """Multiply a layer's output channels by `gain` and add `shift`, inside its weight and bias."""

    layer: str
    gain: Array
    shift: Array


@dataclass(frozen=True)
class Drop:
    """Leave nothing of a residual block but its shortcut."""

    block: str


@dataclass(frozen=True)
class LowRank:
    """Two layers in place of one: `inner` `[r, in, *kernel]`, bias 0, and `outer` `[out, r]` with `bias` (None: the layer's)."""

    layer: str
    inner: Array
    outer: Array
    bias: Array | None = None


Edit = SetWeight | Keep | Affine | Drop | LowRank


# ---------------------------------------------------------------- what may be plugged in
class Model(Protocol):
    """A door: a network of one framework, seen as layers."""

    @property
    def module(self) -> Any:
        """The network in its own framework."""

    @property
    def example(self) -> Batch:
        """One batch that it runs on."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about it."""

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the forward pass."""

    def observe(self, needs: Sequence[Need], data: Iterable[Batch]) -> Iterator[tuple[str, Observation]]:
        """Layer by layer, what `needs` asks for."""

    def edited(self, edits: Sequence[Edit]) -> Model:
        """A new model; this one is untouched."""

    def predict(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs, flattened to a tuple."""

    def original(self, inputs: Batch) -> tuple[Array, ...]:
        """The outputs of the network that came in, whatever was edited since."""

    def to_onnx(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]]]:
        """The float32 ONNX file, stripped, and where each layer's weight lies in it (layers not found are absent)."""

    def to_onnx_with_notes(self, example: Batch) -> tuple[bytes, Mapping[str, tuple[Placement, ...]], tuple[str, ...]]:
        """The same, and sentences about what the exporter couldn't do."""


@runtime_checkable
class Measure(Protocol):
    """What theory reads off a layer: an indicator, never a certificate."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads."""

    def __call__(self, observation: Observation) -> Estimate:
        """The estimate, computed in float64 numpy."""


@runtime_checkable
class Allocator(Protocol):
    """Chooses one option for every unit."""

    def __call__(self, cost: np.ndarray, distortion: np.ndarray, budget: np.ndarray) -> tuple[np.ndarray, float]:
        """Cost `[R, L, C]`, distortion `[L, C]` (inf where a unit lacks a choice), budget `[R]` -> choice `[L]`, gap."""


@runtime_checkable
class Rule(Protocol):
    """Shares zeros or bits out by what it reads off the layers: the published heuristics that an allocator has to beat."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures whose estimates it reads."""

    @property
    def solver(self) -> Allocator:
        """Who chooses from its table, in place of the distortions."""

    def __call__(self, profile: Profile) -> np.ndarray:
        """`[L, C]` a number for every option of every layer of `profile.table`, the bolder the larger; inf: none there."""


@runtime_checkable
class Pruner(Protocol):
    """Zeroes weights of one layer."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads."""

    def __call__(self, weight: Array, observation: Observation, choice: Choice) -> Array:
        """The new weight, the same shape, with exactly the zeros that `choice` asks for."""


@runtime_checkable
class Quantizer(Protocol):
    """Rounds the weights of one layer to integers. Zeros stay zeros."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it reads."""

    @property
    def entropy_coded(self) -> bool:
        """Whether it rounds by `choice.step`, for an entropy coder, in place of a width."""

    @property
    def sketch(self) -> Quantizer | None:
        """A quicker quantizer that tables of options are made with; None: the quantizer itself."""

    def on_grid(self, grid: Any) -> Quantizer:
        """The same quantizer with its codes and scales on a `quantization.Grid`: what the target's integers allow."""

    def __call__(self, weight: Array, observation: Observation, choice: Choice) -> Encoding:
        """The integer weight."""


class Bound(Protocol):
    """A finite-sample bound on a mean."""

    def __call__(self, losses: np.ndarray, delta: float) -> Interval:
        """Bounds on the mean of the law of `losses` `[n]` at confidence 1 - delta."""


Risk = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (outputs [n, ...], labels) -> losses [n] in [0, 1]
