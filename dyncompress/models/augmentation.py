"""Augmentation of unlabelled images: random shifts, horizontal flips, and mixtures of two images."""

from __future__ import annotations

import torch
from torch import Tensor

from dyncompress.types import Batch, Distillation

_SMALLEST_IMAGE = 8  # rows and columns from which an input `[n, c, h, w]` counts as an image


def augment(
    batch: Batch, schedule: Distillation, generator: torch.Generator, *, horizontal_flip: bool = True
) -> dict[str, Tensor]:
    """Shift every image of a batch at random, flip it at random, and mix it with another one; other inputs stay as they are.

    Pixels that a shift moves in from outside are reflections at the image's edge.

    **Source**: mixtures after Zhang et al. 2018 (mixup), who mix the labels too; distillation needs no labels.

    Args:
        batch: inputs by name, `[n, ...]`. An input counts as an image where `is_image` says so.
        schedule: `shift` is the largest shift in pixels, `mix` the largest share of the other image. With `shift` 0 images
            aren't flipped either.
        generator: source of all random numbers.
        horizontal_flip: whether images may be flipped left to right, with probability 1/2 each.

    Returns:
        tensors by name, of the batch's shapes.

    Example:
        >>> batch = {"x": torch.zeros(2, 3, 8, 8), "ids": torch.tensor([1, 2])}
        >>> new = augment(batch, Distillation(shift=1, mix=0.5), torch.Generator().manual_seed(0))
        >>> {name: tuple(value.shape) for name, value in new.items()}
        {'x': (2, 3, 8, 8), 'ids': (2,)}
    """
    tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
    for name, value in tensors.items():
        if is_image(value):
            image = _shift_images(value, schedule.shift, generator, horizontal_flip) if schedule.shift else value
            tensors[name] = _mix_images(image, schedule.mix, generator) if schedule.mix else image
    return tensors


def is_image(value: Tensor) -> bool:
    """Whether an input is a floating-point tensor `[n, c, h, w]` of at least 8 rows and 8 columns."""
    return value.ndim == 4 and value.is_floating_point() and min(value.shape[2:]) >= _SMALLEST_IMAGE


def _mix_images(images: Tensor, mix: float, generator: torch.Generator) -> Tensor:
    """(1 - a) image + a other, with a drawn from [0, mix] and the other image from the same batch."""
    share = mix * torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
    other = torch.randperm(len(images), generator=generator).to(images.device)
    return torch.lerp(images, images[other], share)


def _shift_images(images: Tensor, shift: int, generator: torch.Generator, horizontal_flip: bool) -> Tensor:
    """Shift every image on its own, and flip it with probability 1/2 where flips are allowed."""
    n, _, height, width = images.shape
    flip = torch.randint(0, 2, (n, 1), generator=generator).bool() & horizontal_flip
    down, right = torch.randint(-shift, shift + 1, (2, n, 1), generator=generator)

    def reflect(position: Tensor, size: int) -> Tensor:
        """Positions outside [0, size), reflected at the edges."""
        return (size - 1) - ((size - 1) - position.abs()).abs()

    rows = reflect(torch.arange(height) + down, height)
    columns = reflect(torch.arange(width) + right, width)
    columns = torch.where(flip, columns.flip(1), columns)
    index = (torch.arange(n)[:, None, None], slice(None), rows[:, :, None], columns[:, None, :])
    pixels = images[tuple(i.to(images.device) if isinstance(i, Tensor) else i for i in index)]
    return pixels.permute(0, 3, 1, 2)  # advanced indices come first: [n, h, w, c], which is channels_last already
