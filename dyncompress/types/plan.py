"""Choices, budgets, profiles and plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dyncompress.types import presentation
from dyncompress.types.network import FLOAT_BITS, Layer
from dyncompress.types.observation import Estimate
from dyncompress.types.representation import describe, short_repr

UNMEASURED = "only choice"  # source of distortions of units with a single option, for which nothing is compared
POOLED = "fisher with the training run as 64 examples"  # source of distortions from examples beside a training run
NATS = frozenset({"fisher", "probe", POOLED})  # sources whose distortions are KL divergences


@dataclass(frozen=True)
class Distillation:
    """Distillation from the original without labels; the fields are the keys of a recipe's table `[distill]`.

    Attributes:
        epochs: passes over the calibration examples in which gains and biases are trained; 0: none.
        rate: largest learning rate of Adam for them, in units of log gains and of standard deviations of the outputs.
        batch: examples in one step.
        shift: largest random shift of images, in pixels; if it isn't 0, images are also flipped where `targets.mirrored` is true.
        mix: mixup: an image becomes (1 - a) image + a another image, with a drawn from [0, mix]; 0: no mixup.
        held_out: share of the examples that are set aside to select the best epoch.
        weight_epochs: passes in which all weights are trained, while they are float: after structure was removed and before
            rounding, or under the zeros of a plan that doesn't round; 0: none.
        weight_rate: largest learning rate of Adam for all weights, in units of the root mean square of a layer's weights.
    """

    epochs: int = 0
    rate: float = 0.01
    batch: int = 128
    shift: int = 2
    mix: float = 1.0
    held_out: float = 0.125
    weight_epochs: int = 0
    weight_rate: float = 0.003

    __repr__ = short_repr


@dataclass(frozen=True)
class Choice:
    """What is done to one unit: a layer, a channel group or a residual block. The defaults leave it unchanged.

    Attributes:
        keep: of a channel group: number of channels that are kept; None: all.
        indices: of a channel group: which channels are kept, once the choice was applied.
        drop: of a residual block: whether its shortcut alone replaces it.
        rank: of a layer: number of channels between the two thin layers that replace it; None: it stays one layer.
        sparsity: share of zeros, in [0, 1).
        pattern: n:m keeps n of every m weights, e.g. `2:4`; empty: unstructured.
        weight_bits: 2 to 8, or 32 for float.
        step: relative step size of entropy-coded weights, which are stored at 8 bits until they are packed; rounding one weight
            has an expected cost of step^2 / 24 nats. 0: a fixed width.
        granularity: of the scales: `tensor`, `channel`, or `group:N` (N consecutive inputs of a row share a scale).
        activation_bits: width of the layer's input, 8 or 32 (float).
        method: names of the pruner and quantizer that applied the choice.

    Example:
        >>> choice = Choice(weight_bits=4, sparsity=0.5)
        >>> choice
        Choice(sparsity=0.5, weight_bits=4)
        >>> print(choice)
        4 bits, 50 % zeros
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

    __repr__ = short_repr

    def __str__(self) -> str:
        """A short description, e.g. `4 bits, 50 % zeros`."""
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
    """How a choice changes the weight of a layer.

    Attributes:
        energy: sum of squares of the weight.
        error: sum of squared errors after pruning and rounding, divided by `energy`.
        threshold: the k-th smallest magnitude, where k is the number of weights that the choice sets to zero; 0 for k = 0.
        left: sum of squares of the weights whose magnitude is at least `threshold`.
    """

    energy: float
    error: float
    threshold: float
    left: float

    __repr__ = short_repr


@dataclass(frozen=True)
class Option:
    """One option of a unit: a choice, its costs, and its predicted distortion.

    Attributes:
        choice: the choice.
        bytes: of this unit alone, in the compressed file.
        macs: multiply-accumulates of this unit for one example.
        distortion: predicted; nats of KL divergence if `Profile.source` is fisher or probe, else relative units.
        stderr: standard error of the distortion; nan: unknown.
        seconds: change of the time of one run on the target, in comparison with the unchanged unit (negative: faster); 0: not
            measured.
        nonzeros: number of weights of this layer that aren't zero; nan for channel groups and blocks.
        change: of the weight; None for channel groups and blocks, and for units with a single option.
    """

    choice: Choice
    bytes: float
    macs: float
    distortion: float
    stderr: float = float("nan")
    seconds: float = 0.0
    nonzeros: float = float("nan")
    change: WeightChange | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class Budget:
    """Limits for the compressed file; None: no limit.

    A value of `bytes`, `macs` or `seconds` below 1 is a fraction of the original's. `sparsity` and `risk_increase` are always
    fractions.

    Attributes:
        bytes: largest size of the ONNX file in bytes, everything included.
        macs: largest number of multiply-accumulates of one example.
        seconds: longest time of one run on the target.
        sparsity: smallest share of zeros among all weights of the layers that may be pruned.
        distortion: largest total distortion, in nats of KL divergence from the original if it is predicted from Fisher
            information or probes; the smallest file within it is made. `allocate` limits the predicted distortion, and `compress`
            the divergence that is measured on the finished file. It is an indicator, not a guarantee. Ignored if `bytes` is
            given.
        risk_increase: largest increase of the risk that the certificate allows.

    Example:
        >>> Budget(bytes=0.25)  # a quarter of the original's float32 file
        Budget(bytes=0.25)
        >>> Budget(bytes=100_000, macs=0.5)
        Budget(bytes=100000, macs=0.5)
    """

    bytes: float | None = None
    macs: float | None = None
    seconds: float | None = None
    sparsity: float | None = None
    distortion: float | None = None
    risk_increase: float | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class Profile:
    """What was measured of a model for one recipe and one target; `allocate` makes plans for any number of budgets from it.

    Attributes:
        layers: all layers, including those that are left alone.
        estimates: measure -> layer -> estimate.
        table: unit -> its options, from the most careful to the boldest. A unit is a layer's name, `channels:GROUP` or
            `block:NAME`.
        source: unit -> how its distortions were predicted: `fisher`, `probe`, `theory` or `trajectory`; `only choice` for a unit
            with a single option.
        reasons: layer -> why it is left alone.
        float_bytes: size in bytes of the original's float32 ONNX file, without metadata.
        fixed_bytes: bytes of the compressed file that no choice changes (graph, names, seal).
        macs: multiply-accumulates of one example, of the original.
        digest: of the model's weights.
        recipe, target: names.
        notes: warnings for the user.
        seconds: of one run of the original's float32 file on the target; 0: not measured.
        whole_seconds: of one run of the quantized file with nothing removed; 0: not measured.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x = torch.randn(64, 64)
        >>> profile = dyncompress.measure(network, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        >>> list(profile.table), profile.unit
        (['0', '2'], 'nats')
        >>> [option.choice.weight_bits for option in profile.table["0"]]
        [8, 6, 5, 4]
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

    @property
    def unit(self) -> str:
        """The unit of distortions: `nats` of KL divergence if all sensitivities were measured on data, else `relative`.

        `not computed` if every unit has a single option.
        """
        compared = {source for source in self.source.values() if source != UNMEASURED}
        return "not computed" if not compared else "nats" if compared <= NATS else "relative"

    def _repr_html_(self) -> str:
        return presentation.html(self)

    def __repr__(self) -> str:
        options = sum(map(len, self.table.values()))
        counts = {"layers": len(self.layers), "units": len(self.table), "options": options, "measures": tuple(self.estimates)}
        return describe(self, recipe=self.recipe, target=self.target, **counts, float_bytes=self.float_bytes, macs=self.macs)


@dataclass(frozen=True)
class Plan:
    """The choice for every unit, with reasons. Its text file, `plan.toml`, can be edited and applied.

    Attributes:
        asked: unit -> the choice that was allocated, or written by a person.
        realised: unit -> the choice that was applied; empty until the plan is applied.
        why: unit -> the reason for its choice, a sentence.
        reasons: layer -> why it is left alone.
        cost: `bytes` and `macs` -> predicted.
        distortion: predicted total.
        gap: upper limit for the difference from the smallest distortion within the budget, as a share of the range of
            distortions.
        recipe, target: names.
        digest: of the model's weights, the only ones that the plan is applied to; empty: unknown, only shapes are compared.
        shapes: layer -> shape of its weight, which edits are checked against.
        share_left_alone: `weights` and `macs` -> share that is left alone, in [0, 1].
        notes: warnings for the user, e.g. that files for the target were never run on its hardware; comments in the text file.
        source: of a plan that was read from a file: (table, key, ...) -> `plan.toml line 41`, for messages; () -> the file's
            name.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x = torch.randn(64, 64)
        >>> profile = dyncompress.measure(network, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        >>> plan = dyncompress.allocate(profile, dyncompress.Budget(bytes=0.5))
        >>> {unit: str(choice) for unit, choice in plan.asked.items()}
        {'0': '8 bits', '2': '8 bits'}
        >>> plan.cost["bytes"] <= 0.5 * profile.float_bytes
        True
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

    def _repr_html_(self) -> str:
        return presentation.html(self)

    def __repr__(self) -> str:
        names = {"recipe": self.recipe, "target": self.target, "units": len(self.asked), "left_alone": len(self.reasons)}
        predicted = {"bytes": self.cost.get("bytes"), "distortion": self.distortion}
        return describe(self, **names, **predicted, applied=bool(self.realised))

    def __str__(self) -> str:
        """One line for each unit: its choice, and the reason."""
        width = max((len(unit) for unit in self.asked), default=0)
        done = {**self.asked, **self.realised}
        lines = [f"{unit:{width}}  {choice}: {self.why.get(unit, '')}" for unit, choice in done.items()]
        return "\n".join([*lines, *(f"{layer:{width}}  left alone: {reason}" for layer, reason in self.reasons.items())])

    def with_realised(self, realised: Mapping[str, Choice]) -> Plan:
        """The same plan with the choices that were applied."""
        return replace(self, realised=dict(realised))
