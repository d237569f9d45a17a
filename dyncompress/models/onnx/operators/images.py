"""Regions and boxes of images: RoiAlign, MaxRoiPool, NonMaxSuppression; the index of resizing and sampling too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dyncompress.models.onnx.node import Functions, Node
from dyncompress.models.onnx.operators import resizing, sampling
from dyncompress.models.onnx.values import integers


def _samples(start: Tensor, extent: Tensor, bins: int, ratio: int) -> tuple[Tensor, Tensor]:
    """Where the bins of every region are sampled along an axis.

    Args:
        start: of the regions.
        extent: of the regions.
        bins: how many a region has.
        ratio: samples a bin; 0 for as many as it has pixels.

    Returns:
        The places, regions x bins x samples, and which of them the region has.
    """
    width = extent / bins
    count = torch.full_like(width, ratio) if ratio > 0 else width.detach().ceil()
    sample = torch.arange(max(int(count.max()), 1), device=start.device)
    bin_start = start[:, None] + torch.arange(bins, device=start.device) * width[:, None]
    places = bin_start[:, :, None] + ((sample + 0.5) * width[:, None] / count.clamp(min=1)[:, None])[:, None, :]
    return places, (sample < count[:, None])[:, None, :].expand_as(places)


def _pixels(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two pixels around every place and their weights, on a new last axis; zero weights outside the image."""
    inside = (places >= -1) & (places <= size)
    places = places.clamp(0, size - 1)
    low = places.detach().floor()
    part = places - low
    index = torch.stack([low, (low + 1).clamp(max=size - 1)], -1).to(torch.int64)
    return index, torch.stack([1 - part, part], -1) * inside[..., None]


def _averages(x: Tensor, image: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    """The mean of all samples of a bin, as a product with a matrix per axis."""
    matrices = []
    for (index, weight), size in zip((rows, columns), x.shape[2:], strict=True):
        zeros = weight.new_zeros(*weight.shape[:2], size)
        matrices.append(zeros.scatter_add(2, index, weight))
    order, parts = [], []
    for number in range(x.shape[0]):  # not x[image], which would copy an image for every region
        regions = (image == number).nonzero().squeeze(1)
        order.append(regions)
        part = torch.einsum("rph,chw->rcpw", matrices[0][regions], x[number])
        parts.append(torch.einsum("rcpw,rqw->rcpq", part, matrices[1][regions]))
    return torch.cat(parts)[torch.cat(order).argsort()]


def _maxima(x: Tensor, image: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    """The largest weighted pixel around the samples of a bin; so it is defined, not as the largest sample."""
    (row, high), (column, wide) = rows, columns
    (regions, p, g), (_, q, h) = row.shape, column.shape
    row, column = row.reshape(regions, p, 1, g, 1), column.reshape(regions, 1, q, 1, h)
    missing = (row < 0) | (column < 0)  # samples that a smaller region hasn't
    index = (row * x.shape[3] + column).masked_fill(missing, 0)
    weight = high.reshape(regions, p, 1, g, 1) * wide.reshape(regions, 1, q, 1, h)
    values = x.flatten(2).transpose(0, 1)[:, image[:, None], index.reshape(regions, -1)].reshape(-1, *index.shape)
    values = torch.where(missing, -math.inf, values * weight).flatten(4).amax(4)
    return torch.where(values == -math.inf, 0, values).transpose(0, 1)  # a region may have no samples at all


def roi_align(node: Node, x: Tensor, rois: Tensor, batch_indices: Tensor) -> Tensor:
    """Regions of images, each pooled to the same size from samples between the pixels."""
    half = node.version >= 16 and node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    height, width, ratio = node.get("output_height", 1), node.get("output_width", 1), node.get("sampling_ratio", 0)
    wide = torch.promote_types(x.dtype, torch.float32)
    data, image = x.to(wide), batch_indices.to(x.device, torch.int64)
    if not image.numel() or not x.numel():
        return x.new_zeros(image.numel(), x.shape[1], height, width)
    corners = rois.to(x.device, wide) * node.get("spatial_scale", 1.0) - (0.5 if half else 0.0)
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not half:
        extent = extent.clamp(min=1.0)
    taps = []
    for axis, bins, size in ((1, height, x.shape[2]), (0, width, x.shape[3])):
        places, has = _samples(start[:, axis], extent[:, axis], bins, ratio)
        index, weight = _pixels(places, size)
        if node.get("mode", "avg") == "max":
            index = torch.where(has[..., None], index, -1)
        else:  # a mean over both axes is a mean over each
            weight = weight * (has / has.sum(2, keepdim=True).clamp(min=1))[..., None]
        taps.append((index.flatten(2), weight.flatten(2)))
    return (_maxima if node.get("mode", "avg") == "max" else _averages)(data, image, *taps).to(x.dtype)


def _bins(start: Tensor, end: Tensor, bins: int, size: int) -> Tensor:
    """Which pixels lie in the bins of every region along an axis: regions x bins x pixels."""
    width = (end - start + 1).clamp(min=1) / bins
    number, pixel = torch.arange(bins, device=start.device), torch.arange(size, device=start.device)
    first = (number * width[:, None]).floor() + start[:, None]
    last = ((number + 1) * width[:, None]).ceil() + start[:, None]
    return (pixel >= first[:, :, None]) & (pixel < last[:, :, None])


def max_roi_pool(node: Node, x: Tensor, rois: Tensor) -> Tensor:
    """The maximum of every bin of regions with whole pixels; zero where a bin is empty."""
    (height, width), scale = node.attributes["pooled_shape"], node.get("spatial_scale", 1.0)
    places = rois[:, 1:].to(x.device, torch.float32) * scale
    places = torch.copysign((places.abs() + 0.5).floor(), places)  # unlike torch's, half-way rounds away from zero
    rows = _bins(places[:, 1], places[:, 3], height, x.shape[2])
    columns = _bins(places[:, 0], places[:, 2], width, x.shape[3])
    pooled = []
    for number, image in enumerate(integers(rois[:, 0])):
        part = torch.where(rows[number][:, None, :, None], x[image], -math.inf).amax(2)  # bins x channels x columns
        part = torch.where(columns[number][:, None, None, :], part, -math.inf).amax(3)
        pooled.append(torch.where(part == -math.inf, 0, part).permute(2, 1, 0))
    return torch.stack(pooled).to(x.dtype) if pooled else x.new_zeros(0, x.shape[1], height, width)


def _corners(boxes: Tensor, by_center: bool) -> tuple[Tensor, Tensor]:
    """The lower and the upper corner of boxes, two numbers each."""
    one, other = boxes[..., :2], boxes[..., 2:]
    if by_center:
        return one - other / 2, one + other / 2
    return torch.minimum(one, other), torch.maximum(one, other)


def _overlap(low: Tensor, high: Tensor, low_one: Tensor, high_one: Tensor) -> Tensor:
    """Intersection over union of boxes with one box."""
    shared = (torch.minimum(high, high_one) - torch.maximum(low, low_one)).clamp(min=0).prod(-1)
    area, area_one = (high - low).prod(-1), (high_one - low_one).prod(-1)
    valid = (shared > 0) & (area > 0) & (area_one > 0)
    return torch.where(valid, shared / (area + area_one - shared), torch.zeros_like(shared))


def _number(value: Tensor | None, default: float) -> float:
    """The one number of an optional input."""
    return default if value is None else value.reshape(-1)[0].item()


def non_max_suppression(node: Node, boxes: Tensor, scores: Tensor, *optional: Tensor | None) -> Tensor:
    """The boxes with the best scores of every class that don't overlap better ones.

    Args:
        node: the node.
        boxes: batch x boxes x 4.
        scores: batch x classes x boxes.
        optional: how many boxes of a class at most, the overlap and the score that are the limits.
    """
    most, limit, least = (*optional, None, None, None)[:3]
    limit, most = _number(limit, 0.0), int(_number(most, 0))
    (_, classes, count), device = scores.shape, boxes.device
    candidates = scores > _number(least, -math.inf) if least is not None else torch.ones_like(scores, dtype=torch.bool)
    longest = int(candidates.sum(2).max()) if scores.numel() else 0
    if most <= 0 or longest == 0:
        return torch.zeros(0, 3, dtype=torch.int64, device=device)
    order = scores.masked_fill(~candidates, -math.inf).sort(dim=2, descending=True, stable=True).indices[..., :longest]
    left = candidates.gather(2, order)
    low, high = (
        corner[:, None].expand(-1, classes, -1, -1).gather(2, order[..., None].expand(-1, -1, -1, 2))
        for corner in _corners(boxes, bool(node.get("center_point_box", 0)))
    )
    place, kept = torch.arange(longest, device=device), []
    for _ in range(min(most, count)):  # one box of every class at a time
        if not left.any():
            break
        first = torch.where(left, place, longest).amin(2)
        found = first < longest
        pick = first.clamp(max=longest - 1)[..., None]
        kept.append(torch.where(found, order.gather(2, pick).squeeze(2), -1))
        one = [corner.gather(2, pick[..., None].expand(-1, -1, -1, 2)) for corner in (low, high)]
        left = left & (place != pick) & ~(_overlap(low, high, *one) > limit)
    chosen = torch.stack(kept, 2)
    where = (chosen >= 0).nonzero()
    return torch.cat([where[:, :2], chosen[chosen >= 0][:, None]], 1)


FUNCTIONS: Functions = {
    **resizing.FUNCTIONS,
    **sampling.FUNCTIONS,
    "RoiAlign": {10: roi_align},
    "MaxRoiPool": {1: max_roi_pool},
    "NonMaxSuppression": {10: non_max_suppression},
}
