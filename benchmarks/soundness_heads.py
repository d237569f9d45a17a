"""Networks of `benchmarks.soundness` with difficult outputs: mixed scales, several outputs, other units, hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.soundness_subject import Subject, normal

IMAGE = (3, 16, 16)


def trunk(width: int = 16) -> nn.Sequential:
    """Two convolutions from images `[n, 3, 16, 16]` to maps `[n, width, 8, 8]`."""
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())


def scaled(layer: nn.Module, channels: slice, scale: float, offset: float = 0.0) -> Any:
    """The layer, with some output channels converted to another unit."""
    with torch.no_grad():
        layer.weight[channels] *= scale
        layer.bias[channels] = layer.bias[channels] * scale + offset
    return layer


# ---------------------------------------------------------------- boxes in pixels beside logits
class OneConv(nn.Module):
    """Boxes and logits from one convolution, in a layout that `arrange` makes."""

    def __init__(self, arrange: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.arrange = trunk(), arrange
        self.head = scaled(nn.Conv2d(16, 14, 1), slice(0, 8), 100.0, 120.0)  # two anchors: 8 box values, then 6 logits

    def forward(self, x: Tensor) -> Tensor:
        return self.arrange(self.head(self.body(x)))


class TwoConvs(nn.Module):
    """Boxes and logits from two convolutions, concatenated on the channels or on the last axis."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.body, self.last = trunk(), last
        self.boxes, self.logits = scaled(nn.Conv2d(16, 4, 1), slice(None), 100.0, 120.0), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        boxes, logits = self.boxes(x), self.logits(x)
        if self.last:
            return torch.cat([boxes.flatten(2).transpose(1, 2), logits.flatten(2).transpose(1, 2)], -1)
        return torch.cat([boxes, logits], 1)


def one_conv() -> Subject:
    return Subject(OneConv(lambda y: y), normal(*IMAGE))


def channels_last() -> Subject:
    return Subject(OneConv(lambda y: y.permute(0, 2, 3, 1)), normal(*IMAGE))


def anchors() -> Subject:
    return Subject(OneConv(lambda y: y.reshape(len(y), 2, 7, 64).permute(0, 1, 3, 2).reshape(len(y), 128, 7)), normal(*IMAGE))


def concat_channels() -> Subject:
    return Subject(TwoConvs(last=False), normal(*IMAGE))


def concat_last() -> Subject:
    return Subject(TwoConvs(last=True), normal(*IMAGE))


def linear_boxes() -> Subject:
    head = scaled(nn.Linear(32, 7), slice(0, 4), 100.0, 120.0)
    return Subject(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), head), normal(20, name="input"))


# ---------------------------------------------------------------- several outputs, other units
class Several(nn.Module):
    """A trunk and several heads on its mean; `together` combines their outputs."""

    def __init__(self, heads: Sequence[nn.Module], together: Callable[..., Any]) -> None:
        super().__init__()
        self.body, self.heads, self.together = trunk(), nn.ModuleList(heads), together

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).mean((2, 3))
        return self.together(*(head(x) for head in self.heads))


def _tasks() -> list[nn.Module]:
    """Heads for class logits, a distance in millimetres, and an angle near 1.5 radians that varies by about 0.01."""
    metres, angle = nn.Linear(16, 1), nn.Linear(16, 1)
    return [nn.Linear(16, 5), scaled(metres, slice(None), 1000.0, 2500.0), scaled(angle, slice(None), 1.5, 1.5)]


def tasks_tuple() -> Subject:
    return Subject(Several(_tasks(), lambda a, b, c: (a, b, c)), normal(*IMAGE))


def tasks_dict() -> Subject:
    return Subject(Several(_tasks(), lambda a, b, c: {"angle": c, "logits": a, "distance": b}), normal(*IMAGE))


def tasks_nested() -> Subject:
    return Subject(Several(_tasks(), lambda a, b, c: {"scores": a, "pose": (b, [c, c.sin()])}), normal(*IMAGE))


def tasks_concat() -> Subject:
    return Subject(Several(_tasks(), lambda a, b, c: torch.cat([a, b, c], 1)), normal(*IMAGE))


def radians() -> Subject:
    return Subject(Several([scaled(nn.Linear(16, 2), slice(None), 1.5, 1.5)], lambda a: a), normal(*IMAGE))


def millimetres() -> Subject:
    return Subject(nn.Sequential(trunk(), scaled(nn.Conv2d(16, 1, 1), slice(None), 1000.0, 2500.0)), normal(*IMAGE, name="input"))


def probabilities() -> Subject:
    return Subject(Several([nn.Linear(16, 5)], lambda a: (3 * a).softmax(1)), normal(*IMAGE))


def sigmoid_map() -> Subject:
    return Subject(nn.Sequential(trunk(), nn.Conv2d(16, 2, 1), nn.Sigmoid()), normal(*IMAGE, name="input"))


# ---------------------------------------------------------------- hooks that change values
def _hooked(attach: Callable[[nn.Sequential], object], scale: float = 1.0) -> Subject:
    layers = [nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)]
    module = nn.Sequential(*layers)
    attach(module)
    return Subject(module, normal(20, name="input", scale=scale))


def hook_root() -> Subject:
    return _hooked(lambda m: m.register_forward_hook(lambda _m, _a, out: (4 * out).softmax(1)))


def prehook_root() -> Subject:
    return _hooked(lambda m: m.register_forward_pre_hook(lambda _m, a: ((a[0] - 3) / 2,)), scale=2.0)


def hook_activation() -> Subject:
    return _hooked(lambda m: m[1].register_forward_hook(lambda _m, _a, out: out * 0.5 + 1))


def hook_layer() -> Subject:
    return _hooked(lambda m: m[2].register_forward_hook(lambda _m, _a, out: out * 4 - 2))


def prehook_layer() -> Subject:
    return _hooked(lambda m: m[2].register_forward_pre_hook(lambda _m, a: (a[0].sqrt(),)))


class Blend(nn.Module):
    """A layer whose second argument is a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(20, 32), nn.Linear(20, 32)

    def forward(self, x: Tensor, *, share: float = 0.5) -> Tensor:
        return share * self.left(x) + (1 - share) * self.right(x)


class Blended(nn.Module):
    """Calls a layer with a keyword argument that a pre-hook changes."""

    def __init__(self) -> None:
        super().__init__()
        self.blend, self.head = Blend(), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blend(x, share=0.9).relu())


def hook_keywords() -> Subject:
    module = Blended()
    module.blend.register_forward_pre_hook(lambda _m, a, k: (a, {**k, "share": 1 - k["share"]}), with_kwargs=True)
    module.head.register_forward_hook(lambda _m, _a, _k, out: 3 * out, with_kwargs=True)
    return Subject(module, normal(20))


HEADS: dict[str, Callable[[], Subject]] = {
    "boxes, one conv": one_conv,
    "boxes, channels last": channels_last,
    "boxes, anchors": anchors,
    "boxes, concat on channels": concat_channels,
    "boxes, concat on the last axis": concat_last,
    "boxes, linear": linear_boxes,
    "tasks, tuple": tasks_tuple,
    "tasks, dict": tasks_dict,
    "tasks, nested": tasks_nested,
    "tasks, one tensor": tasks_concat,
    "radians": radians,
    "millimetres": millimetres,
    "probabilities": probabilities,
    "sigmoid map": sigmoid_map,
    "hook, root": hook_root,
    "pre-hook, root": prehook_root,
    "hook, activation": hook_activation,
    "hook, layer": hook_layer,
    "pre-hook, layer": prehook_layer,
    "hook, keywords": hook_keywords,
}
