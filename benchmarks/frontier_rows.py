"""The rows of the frontier, as data: what is run, what it must reach, and what was tuned on what.

To add a row, append a `Row`; to run it: `python -m benchmarks.frontier --rows NAME`. A row of ours names a recipe; while no
recipe of that name ships, the row is passed over. A peer is any frozen dataclass that is called with a `Case` and returns what
it `Made`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.frontier_data import SEEDS, TEACHING, Case, Made
from benchmarks.frontier_ours import Ours
from benchmarks.peers import Nncf, OrtStatic, TorchPruning


@dataclass(frozen=True)
class Aim:
    """What the worst of a row's seeds must reach on one network; 0 asks nothing.

    Attributes:
        drop: of the accuracy, points, at most.
        payload: times fewer bytes of weights, scales and biases in the container, at least.
        container: times fewer bytes of the whole container, certificate included, at least.
        macs: times fewer, at least.
        faster: times, batch 1 and batch 16, at least.
        seconds: of the call, at most.
    """

    drop: float
    payload: float = 0.0
    container: float = 0.0
    macs: float = 0.0
    faster: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        name: unique; names files, so no slashes.
        family: the table it stands in, a key of `FAMILIES`.
        tool: `dyncompress` or a peer's name.
        make: what makes it.
        trained: what gradient steps change; empty: there are none.
        seeds: calibration seeds; one where no image is looked at.
        aims: network -> what must be reached.
        headline: whether it stands in the README's short table too.
    """

    name: str
    family: str
    tool: str
    make: Callable[[Case], Made]
    trained: str = ""
    seeds: tuple[int, ...] = SEEDS
    aims: Mapping[str, Aim] = field(default_factory=dict)
    headline: bool = False


@dataclass(frozen=True)
class Tuned:
    """What was tuned for which rows, how many configurations were tried, and on which images they were compared.

    Attributes:
        rows: names or patterns of names.
        what: the parameters.
        tried: configurations compared, the kept one among them.
        compared_by: quantity and images.
    """

    rows: str
    what: str
    tried: int
    compared_by: str


FAMILIES = {
    "int8": "8-bit weights and activations",
    "bits": "Uniform 4, 3 and 2 bits a channel, int8 activations",
    "bytes": "Fewest bytes",
    "zeros": "Unstructured zeros",
    "channels": "Fewer multiply-accumulates, fewer milliseconds",
}
AFFINE = "gains and biases"
WEIGHTS = "all weights"
TAUGHT = {"calibration.limit": TEACHING, "calibration.observed": 1024, "distill.weight_epochs": 20, "distill.epochs": 2}


def ours(name: str, family: str, make: Ours, trained: str = "", headline: bool = True, **aims: Aim) -> Row:
    """A row of this library; `aims` by network."""
    return Row(name, family, "dyncompress", make, trained, aims=aims, headline=headline)


OURS = (
    ours("edge-int8", "int8", Ours("edge-int8"), resnet20=Aim(0.5, seconds=15)),
    ours("edge-int4", "bits", Ours("edge-int4"), resnet20=Aim(0.5), resnet44=Aim(0.5)),
    ours("edge-int3", "bits", Ours("edge-int3"), resnet20=Aim(0.8), resnet44=Aim(0.8)),
    ours("edge-int2", "bits", Ours("edge-int2"), AFFINE, resnet20=Aim(4.0), resnet44=Aim(4.0)),
    ours("smallest", "bytes", Ours("smallest", {"budget.bytes": 0.125})),
    ours(
        "packed",
        "bytes",
        Ours("packed", certified=True),
        resnet20=Aim(1.0, payload=18, container=16.5, seconds=60),
        resnet44=Aim(1.0, payload=25, container=24),
    ),
    ours(
        "packed, careful",
        "bytes",
        Ours("packed", {"budget.distortion": 0.05}, certified=True),
        resnet20=Aim(1.0, payload=14),
        resnet44=Aim(1.0, payload=15),
    ),
    ours("sparse", "zeros", Ours("sparse"), AFFINE, resnet20=Aim(4.0), resnet44=Aim(2.5)),
    ours("narrow 1.5x", "channels", Ours("narrow", {"budget.macs": 1 / 1.5}), AFFINE, resnet44=Aim(1.2, macs=1.5)),
    ours("narrow 2.0x", "channels", Ours("narrow", {"budget.macs": 1 / 2.0}), AFFINE, resnet44=Aim(3.5, macs=2.0)),
    ours(
        "narrow 2.0x, all weights",
        "channels",
        Ours("narrow", {**TAUGHT, "budget.macs": 1 / 2.0}, images=TEACHING),
        WEIGHTS,
        headline=False,
    ),
    ours("sparse, all weights", "zeros", Ours("sparse", TAUGHT, images=TEACHING), WEIGHTS, headline=False),
    ours("fastest", "channels", Ours("fastest"), resnet44=Aim(2.0, faster=(2.3, 2.9))),
)


def torch_pruning() -> tuple[Row, ...]:
    """Both importances, uniform and global, 1.5x and 2.0x fewer MACs, plain and with BatchNorm re-estimation."""
    rows = []
    for importance in ("magnitude", "taylor"):
        for scope in ("uniform", "global"):
            for ratio in (1.5, 2.0):
                for again in (False, True):
                    name = f"torch-pruning {importance} {scope} {ratio}x{' + BatchNorm' * again}"
                    seeds = SEEDS if again or importance == "taylor" else (0,)
                    make = TorchPruning(importance, scope == "global", ratio, again)
                    headline = again and (importance, scope) == ("magnitude", "global")
                    rows.append(Row(name, "channels", "torch-pruning", make, seeds=seeds, headline=headline))
    return tuple(rows)


PEERS = (
    Row("onnxruntime static, per channel", "int8", "onnxruntime", OrtStatic(per_channel=True), headline=True),
    Row("onnxruntime static, per tensor", "int8", "onnxruntime", OrtStatic(per_channel=False)),
    Row("NNCF", "int8", "NNCF", Nncf(), headline=True),
    Row("NNCF mixed", "int8", "NNCF", Nncf(preset="mixed")),
    Row("NNCF accurate bias correction", "int8", "NNCF", Nncf(accurate=True)),
    *torch_pruning(),
)
ROWS = (*OURS, *PEERS)

TUNED = (
    Tuned(
        "packed",
        "share of an error alike at all positions, steps by row or layer, images and ridge of the sequence, weights of examples, "
        "whether shortcuts count, rate and epochs of distillation, ranges of activations, how much harm and by which measure, "
        "weight of late layers, price of a bit, damping and order of paths on the trellis, mirror images, plans carried out",
        92,
        "divergence from the original on 2 048 tuning images, ResNet-20 (36 of them ResNet-44 too); the level of harm, .08 nats, "
        "was set after three earlier versions of the row had been judged on the test images",
    ),
    Tuned(
        "narrow *, fastest",
        "probes, passes of the refit, blocks, depth of the refit, epochs and mixing of distillation, grids of widths",
        45,
        "divergence from the original on 2 048 tuning images; narrow 1.5x had one earlier look at the test images; of "
        "budget.seconds four values were judged on them (.34, .345: one seed above 2 points; .37: slower), the row is .35",
    ),
    Tuned(
        "* all weights",
        "rate of the weights",
        5,
        "divergence on 512 training images beside the 2 048 that taught, ResNet-20 with 50 and 70 % zeros by magnitude",
    ),
    Tuned("onnxruntime *, NNCF *", "nothing: each tool's documented settings", 1, "-"),
    Tuned("torch-pruning *", "whether the residual stream's channels may go", 2, "accuracy on 1 024 tuning images, ResNet-20"),
)
