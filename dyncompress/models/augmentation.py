"""Unlabelled images made into more of them: flipped left to right, shifted, mixed with one another, by a generator's chance."""

from __future__ import annotations

import torch
from torch import Tensor

from dyncompress.types import Batch, Distillation

_SMALLEST_IMAGE = 8  # rows and columns from which an input `[n, c, h, w]` is taken for an image


def augmented(batch: Batch, spec: Distillation, generator: torch.Generator, *, mirrored: bool = True) -> dict[str, Tensor]:
    """Images shifted, flipped left to right by chance where they may be, and mixed with one another; other inputs as they are.

    Answers to mixtures tell more of the teacher than answers to images do (Zhang et al. 2018 mix labels too; here none are
    needed). The edges of shifted images are mirrored.

    Args:
        batch: inputs by name.
        spec: how far images are shifted and how much of another is mixed in; without a shift they aren't flipped either.
        generator: what is drawn from.
        mirrored: whether left and right mean the same in these images, so that they may be flipped.
    """
    found = {name: torch.as_tensor(value) for name, value in batch.items()}
    for name, value in found.items():
        if is_image(value):
            moved = _moved(value, spec.shift, generator, mirrored) if spec.shift else value
            found[name] = _mixed(moved, spec.mix, generator) if spec.mix else moved
    return found


def is_image(value: Tensor) -> bool:
    """Whether an input is float `[n, c, h, w]` of at least 8 rows and columns."""
    return value.ndim == 4 and value.is_floating_point() and min(value.shape[2:]) >= _SMALLEST_IMAGE


def _mixed(images: Tensor, mix: float, generator: torch.Generator) -> Tensor:
    """Every image with a share of another."""
    share = mix * torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
    other = torch.randperm(len(images), generator=generator).to(images.device)
    return torch.lerp(images, images[other], share)


def _moved(images: Tensor, shift: int, generator: torch.Generator, flipped: bool) -> Tensor:
    """Shift every image on its own, and flip it by chance where that is allowed."""
    n, _, height, width = images.shape
    flip = torch.randint(0, 2, (n, 1), generator=generator).bool() & flipped
    down, right = torch.randint(-shift, shift + 1, (2, n, 1), generator=generator)

    def mirrored(at: Tensor, size: int) -> Tensor:
        """Positions outside [0, size) reflected at the edges."""
        return (size - 1) - ((size - 1) - at.abs()).abs()

    rows = mirrored(torch.arange(height) + down, height)
    columns = mirrored(torch.arange(width) + right, width)
    columns = torch.where(flip, columns.flip(1), columns)
    where = (torch.arange(n)[:, None, None], slice(None), rows[:, :, None], columns[:, None, :])
    picked = images[tuple(i.to(images.device) if isinstance(i, Tensor) else i for i in where)]
    return picked.permute(0, 3, 1, 2)  # advanced indices come first: [n, h, w, c], which is channels_last already
