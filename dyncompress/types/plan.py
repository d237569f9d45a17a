"""Choices, budgets, profiles and plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dyncompress.types import presentation
from dyncompress.types.network import FLOAT_BITS, Layer
from dyncompress.types.observation import Estimate
from dyncompress.types.representation import describe, short_repr

UNMEASURED = "only choice"  # source of units that have one option: nothing is compared with it
NATS = frozenset({"fisher", "probe"})  # sources whose distortions are KL divergences


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

    __repr__ = short_repr


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

    __repr__ = short_repr

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
    """What a choice does to a layer's weight, whatever that does to the outputs.

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

    __repr__ = short_repr


@dataclass(frozen=True)
class Option:
    """One line of a unit's table: a choice, what it costs, and its predicted distortion.

    Attributes:
        choice: the choice.
        bytes: in the shipped file, of this unit alone.
        macs: of this unit, one example.
        distortion: predicted; in nats of KL divergence where `source` is fisher or probe, else in relative units.
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

    __repr__ = short_repr


@dataclass(frozen=True)
class Budget:
    """What can be afforded. A number below 1 is a fraction of the original; `sparsity` and `risk_increase` always are fractions.

    Attributes:
        bytes: of the shipped ONNX file, every byte of it.
        macs: multiply-accumulates of one example.
        seconds: of one run on the target.
        sparsity: share of zeros, at least, among all weights of the layers that are chosen for (each rounds to whole weights).
        distortion: in all (nats of KL divergence from the original, where it comes from Fisher information or probes); the
            smallest file within it is made; no limit where bytes are given too. `allocate` limits the predicted distortion;
            `compress` limits the divergence measured on the finished file. An indicator.
        risk_increase: largest certified increase of the risk.
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

    @property
    def unit(self) -> str:
        """Of distortions: `nats` of KL divergence where all sensitivities were measured on data, else `relative`.

        `not computed` where every unit has one option, so that there was nothing to compare.
        """
        compared = {source for source in self.source.values() if source != UNMEASURED}
        return "not computed" if not compared else "nats" if compared <= NATS else "relative"

    def _repr_html_(self) -> str:
        return presentation.html(self)

    def __repr__(self) -> str:
        options = sum(len(found) for found in self.table.values())
        told = {"layers": len(self.layers), "units": len(self.table), "options": options, "measures": tuple(self.estimates)}
        return describe(self, recipe=self.recipe, target=self.target, **told, float_bytes=self.float_bytes, macs=self.macs)


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

    def _repr_html_(self) -> str:
        return presentation.html(self)

    def __repr__(self) -> str:
        told = {"recipe": self.recipe, "target": self.target, "units": len(self.asked), "left_alone": len(self.reasons)}
        predicted = {"bytes": self.cost.get("bytes"), "distortion": self.distortion}
        return describe(self, **told, **predicted, applied=bool(self.realised))

    def __str__(self) -> str:
        """A line a unit: what was chosen, and why."""
        width = max((len(unit) for unit in self.asked), default=0)
        done = {**self.asked, **self.realised}
        lines = [f"{unit:{width}}  {choice}: {self.why.get(unit, '')}" for unit, choice in done.items()]
        return "\n".join([*lines, *(f"{layer:{width}}  left alone: {reason}" for layer, reason in self.reasons.items())])

    def with_realised(self, realised: Mapping[str, Choice]) -> Plan:
        """The same plan with what was done beside what was asked."""
        return replace(self, realised=dict(realised))
