"""The optional capabilities of model adapters, and the defaults for adapters without them.

Improvements that an adapter can't make (matching moments, fitting layers in order, distilling gains) are left out, with a note in
the plan's file. A recipe whose main work needs one (structured pruning, learned weights) is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dyncompress.errors import Unsupported
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Array, Batch, ChannelGroup, Model, MomentMatching, ResidualBlock, Structured, Trainable


def channel_groups(model: Model) -> tuple[ChannelGroup, ...]:
    """The model's channel groups; none where its adapter knows of none."""
    return model.channel_groups() if isinstance(model, Structured) else ()


def residual_blocks(model: Model) -> tuple[ResidualBlock, ...]:
    """The model's residual blocks; none where its adapter knows of none."""
    return model.residual_blocks() if isinstance(model, Structured) else ()


def factorable_layers(model: Model) -> frozenset[str]:
    """The layers that can be split into two of a lower rank; none where the adapter can't."""
    return model.factorable_layers() if isinstance(model, Structured) else frozenset()


def match_moments(model: Model, reference: Model, batches: Sequence[Batch]) -> tuple[Model, Mapping[str, tuple[Array, Array]]]:
    """The model with the reference's moments, and layer -> (gain, shift); the model itself where the adapter can't match them."""
    return model.matched(reference, batches) if isinstance(model, MomentMatching) else (model, {})


def float_file(model: Model, example: Batch) -> bytes:
    """The float32 file that sizes and times are compared with: the one that the model came as, else its export."""
    own = getattr(model, "float_file", None)
    return model.to_onnx(example)[0] if own is None else own(example)


def refuse_incapable(model: Model, recipe: Recipe) -> None:
    """Refuse a recipe whose main work the model's adapter can't do.

    Raises:
        Unsupported: names the adapter, what it lacks, and a recipe that works.
    """
    lacking = ""
    if (recipe.keeps or recipe.blocks or recipe.ranks) and not isinstance(model, Structured):
        lacking = "changes the structure of the network, which needs the capability 'Structured'"
    elif recipe.distill.weight_epochs and not isinstance(model, Trainable):
        lacking = "learns weights by distillation, which needs the capability 'Trainable'"
    if lacking:
        name = type(model).__name__
        raise Unsupported(f"recipe '{recipe.name}' {lacking}, and the model adapter {name} lacks it; choose recipe 'edge-int8'.")
