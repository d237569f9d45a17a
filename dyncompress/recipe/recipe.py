"""What a recipe is: values alone; `toml_files` reads them from TOML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.recipe.checks import SCHEMA, check_recipe
from dyncompress.types import FLOAT_BITS, Allocator, Budget, Distillation, Measure, Pruner, Quantizer, Rule
from dyncompress.types.representation import short_repr

FIRST, LAST = "<first>", "<last>"  # in a rule's `match`: the first and the last layer of the forward pass


@dataclass(frozen=True)
class CertificateSpec:
    """What is to be certified.

    Attributes:
        risk: a name of `certificates.RISKS`.
        delta: probability that the certificate is wrong, all lines together.
        method: a name of `certificates.BOUNDS`; empty: the tightest one that fits the risk.
    """

    risk: str = "zero_one"
    delta: float = 0.05
    method: str = ""

    __repr__ = short_repr


@dataclass(frozen=True)
class LayerRule:
    """An exception for the layers whose name matches; the first matching rule of a recipe wins.

    Attributes:
        match: a glob (`layer1.*`), or `<first>` or `<last>` for the first and last layer of the forward pass.
        weight_bits, sparsities: candidates instead of the recipe's; empty: the recipe's.
        leave_alone: the layer stays as it is.
    """

    match: str
    weight_bits: tuple[int, ...] = ()
    sparsities: tuple[float, ...] = ()
    leave_alone: bool = False

    __repr__ = short_repr


@dataclass(frozen=True)
class Recipe:
    """What to measure, which choices to consider, who chooses and carries them out, and what to promise.

    Attributes:
        name, summary: for the list.
        sensitivity: sources of distortions in order of preference: `fisher`, `probe`, `trajectory`, `theory`.
        budget: default budget.
        measures: name -> measure.
        coefficients: `pruning` and `quantization` -> measure -> weight of its z-score in the theory's log sensitivity.
        priors, probes: in their place, `pruning` and `quantization` -> `error` and `fisher`, what it multiplies -> an
            `allocation.prior.Prior` learned on other networks; and the share of layers, the largest first, that are probed where
            distortions come from theory or Fisher information.
        allocator, pruner, quantizer: who chooses, zeroes, rounds.
        weight_bits: candidate widths; empty: weights stay float.
        steps: candidates for the quantizer `entropy`: with 1 everywhere, rounding costs one nat.
        sparsities: candidate shares of zeros.
        pattern: of the zeros, e.g. `2:4`; empty: unstructured.
        keeps, blocks: candidate shares of channels (empty: none is removed); whether whole residual blocks may be dropped.
        latency_batch, ranks: examples a run that is timed (0: none is); candidate shares of a layer's rank, as two thin layers.
        granularity: of the scales.
        activation_bits, activation_share: 8 or 32; activation ranges may end where they hold this share of the calibration
            examples whole, as long as the outputs bear it (1: they hold all).
        sequential, mirrored: whether layers aim at the original from the inputs that others leave them; on mirror images too.
        match: whether the original's moments are restored after rounding (needs calibration data).
        distill: how gains and biases learn from the original afterwards (needs calibration data).
        calibration, observed: at most this many examples are used; so many of them for moments and Fisher information (0: all).
        certificate: what is certified.
        path, path_row: budgets (`bytes` or `macs`) from cautious to bold, tried where `budget.risk_increase` is given.
        layers, seed: exceptions; of everything drawn at random.
    """

    name: str
    summary: str = ""
    schema: int = SCHEMA
    sensitivity: tuple[str, ...] = ("fisher", "probe", "theory")
    budget: Budget = field(default_factory=Budget)
    measures: Mapping[str, Measure] = field(default_factory=dict)
    coefficients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    priors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    probes: float = 0.0
    allocator: Allocator | Rule = field(default_factory=lambda: allocators()["knapsack"]())
    pruner: Pruner | None = None
    quantizer: Quantizer | None = None
    weight_bits: tuple[int, ...] = ()
    steps: tuple[float, ...] = ()
    sparsities: tuple[float, ...] = ()
    pattern: str = ""
    keeps: tuple[float, ...] = ()
    blocks: bool = False
    latency_batch: int = 0
    ranks: tuple[float, ...] = ()
    granularity: str = "channel"
    activation_bits: int = FLOAT_BITS
    activation_share: float = 0.98
    sequential: bool = False
    mirrored: bool = False
    match: bool = True
    distill: Distillation = field(default_factory=Distillation)
    calibration: int = 1024
    observed: int = 0
    certificate: CertificateSpec = field(default_factory=CertificateSpec)
    path: tuple[float, ...] = ()
    path_row: str = "bytes"
    layers: tuple[LayerRule, ...] = ()
    seed: int = 0

    __repr__ = short_repr

    def __post_init__(self) -> None:
        check_recipe(self)

    def budgets(self) -> tuple[Budget, ...]:
        """The budgets of the path, from cautious to bold; the recipe's own where there is no path."""
        row = self.path_row
        return tuple(dataclasses.replace(self.budget, **{row: value}) for value in self.path) or (self.budget,)


def rules_for(recipe: Recipe, layer_names: Sequence[str]) -> dict[str, LayerRule]:
    """Layer -> the first rule that matches it; layers without a rule are absent.

    Raises:
        InvalidRequest: a pattern matches no layer.
    """
    found: dict[str, LayerRule] = {}
    ends = {FIRST: layer_names[:1], LAST: layer_names[-1:]}
    for rule in recipe.layers:
        fitting = ends.get(rule.match, [name for name in layer_names if fnmatchcase(name, rule.match)])
        if not fitting:
            hint = nearest(rule.match.strip("*."), layer_names) if layer_names else "."
            raise InvalidRequest(f"recipe '{recipe.name}': layer pattern '{rule.match}' matches no layer{hint}")
        for name in fitting:
            found.setdefault(name, rule)
    return found


def allocators() -> Mapping[str, type]:
    """Name -> class of every solver and rule."""
    from dyncompress.allocation import ALLOCATORS, RULES  # scipy's solvers are loaded only where a recipe is

    return {**ALLOCATORS, **RULES}
