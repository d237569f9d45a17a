"""Attention and what belongs to it: Attention, RotaryEmbedding, LinearAttention, FlexAttention."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dyncompress.models.onnx.node import Functions, Node
from dyncompress.models.onnx.values import dtype_of


def _with_heads(x: Tensor, heads: int | None) -> Tensor:
    """Batch x heads x length x size, of batch x length x all heads' sizes."""
    return x if x.ndim == 4 else x.unflatten(2, (heads or 1, x.shape[2] // (heads or 1))).transpose(1, 2)


def _for_queries(x: Tensor, heads: int) -> Tensor:
    """Keys or values with as many heads as the queries, each used by neighbouring ones."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _scaled_product(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """The scores; both factors are scaled before, so that half precision doesn't overflow."""
    root = torch.tensor(math.sqrt(scale), dtype=query.dtype, device=query.device)
    return (query * root) @ (key * root).transpose(-1, -2)


def _forbidden(node: Node, lengths: tuple[int, int], past: int, nonpad: Tensor | None, device: torch.device) -> Tensor | None:
    """Where a query mustn't look by the node's attributes, broadcast to batch x heads x queries x keys."""
    i = torch.arange(lengths[0], device=device)[:, None]
    j = torch.arange(lengths[1], device=device)
    if nonpad is None:
        position = i + past
    else:
        nonpad = nonpad.to(device).reshape(-1, 1, 1, 1)
        position = i + (nonpad - lengths[0])
    left, right = node.get("left_window_size", -1), node.get("right_window_size", -1)
    rules = [j > position] if node.get("is_causal", 0) else []
    rules += [position - j > left] if left >= 0 else []
    rules += [j - position > right] if right >= 0 else []
    rules += [j >= nonpad] if nonpad is not None else []
    result = None
    for rule in rules:
        result = rule if result is None else result | rule
    return result


def _bias(mask: Tensor | None, forbidden: Tensor | None, scores: Tensor) -> Tensor:
    """What is added to the scores: 0, the mask's numbers, or -inf."""
    bias = torch.zeros((), dtype=scores.dtype, device=scores.device)
    if mask is not None:
        short = scores.shape[-1] - mask.shape[-1]
        if mask.dtype == torch.bool:
            mask = torch.where(functional.pad(mask, [0, short], value=False) if short > 0 else mask, 0.0, -math.inf)
        elif short > 0:
            mask = functional.pad(mask.to(scores.dtype), [0, short], value=-math.inf)
        bias = bias + mask.to(scores.dtype)
    return bias if forbidden is None else torch.where(forbidden, -math.inf, bias)


def attention(node: Node, q: Tensor, k: Tensor, v: Tensor, *optional: Tensor | None) -> tuple[Tensor, ...]:
    """Softmax of scaled products, with masks, a cache and shared heads.

    Args:
        node: the node.
        q: queries.
        k: keys.
        v: values.
        optional: the mask, past keys, past values, and how many keys of every batch aren't padding.
    """
    mask, past_key, past_value, nonpad = (*optional, None, None, None, None)[:4]
    flat = q.ndim == 3
    query = _with_heads(q, node.get("q_num_heads"))
    key, value = (_with_heads(x, node.get("kv_num_heads")) for x in (k, v))
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    heads, scale = query.shape[1], node.get("scale")
    scale = 1 / math.sqrt(query.shape[3]) if scale is None else scale
    scores = _scaled_product(query, _for_queries(key, heads), scale)
    softcap, mode = node.get("softcap", 0.0), node.get("qk_matmul_output_mode", 0)
    capped = softcap * (scores / softcap).tanh() if softcap else scores
    forbidden = _forbidden(node, (query.shape[2], key.shape[2]), past, nonpad, q.device)
    bias = _bias(mask, forbidden, scores)
    logits = capped + bias
    precision = node.get("softmax_precision")
    wide = dtype_of(precision) if precision else logits.dtype
    # A query that may look nowhere gets zeros, and no gradient that isn't a number.
    lost = (bias == -math.inf).expand(*logits.shape).all(-1, keepdim=True)
    weights = logits.masked_fill(lost, 0.0).to(wide).softmax(-1).masked_fill(lost, 0.0).to(q.dtype)
    y = (weights.to(value.dtype) @ _for_queries(value, heads)).to(q.dtype)
    shown = (scores, capped, logits, weights)[mode]
    return (y.transpose(1, 2).flatten(2) if flat else y), key, value, shown


def rotary_embedding(node: Node, x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """Pairs of numbers turned by angles that depend on the position."""
    heads = _with_heads(x, node.get("num_heads"))
    size = node.get("rotary_embedding_dim", 0) or heads.shape[3]
    if position_ids is not None:
        cos, sin = (cache[position_ids.to(x.device)] for cache in (cos, sin))
    cos, sin = cos[:, None], sin[:, None]
    turning, rest = heads[..., :size], heads[..., size:]
    if node.get("interleaved", 0):
        one, other = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack([cos * one - sin * other, sin * one + cos * other], -1).flatten(-2)
    else:
        one, other = turning.chunk(2, -1)
        turned = torch.cat([cos * one - sin * other, sin * one + cos * other], -1)
    y = torch.cat([turned, rest], -1)
    return y.transpose(1, 2).flatten(2) if x.ndim == 3 else y


def linear_attention(node: Node, q: Tensor, k: Tensor, v: Tensor, *optional: Tensor | None) -> tuple[Tensor, Tensor]:
    """A state that every token reads and writes, by one of four rules; computed in single precision.

    Args:
        node: the node.
        q: queries.
        k: keys.
        v: values.
        optional: the past state, the logarithm of its decay, and the rate of the update.
    """
    past, decay, beta = (*optional, None, None, None)[:3]
    queries, heads = node.attributes["q_num_heads"], node.attributes["kv_num_heads"]
    query, (key, value) = _with_heads(q, queries).float(), (_with_heads(x, heads).float() for x in (k, v))
    scale = node.get("scale", 0.0) or 1 / math.sqrt(query.shape[3])
    zeros = torch.zeros(q.shape[0], heads, key.shape[3], value.shape[3], device=q.device)
    state = zeros if past is None else past.float()
    gate = None if decay is None else _with_heads(decay, heads).float().exp()
    rate = None if beta is None else _with_heads(beta, beta.shape[2]).float()
    outputs = []
    for time in range(q.shape[1]):
        row, new = key[:, :, time], value[:, :, time]
        if gate is not None:
            state = state * gate[:, :, time, :, None]
        if rate is not None:
            new = rate[:, :, time] * (new - (row[:, :, None] @ state).squeeze(2))
        state = state + row[..., None] * new[:, :, None]
        outputs.append((query[:, :, time, None] @ _for_queries(state, queries)).squeeze(2) * scale)
    y = torch.stack(outputs, 1) if outputs else query.new_zeros(q.shape[0], 0, queries, value.shape[3])
    return y.flatten(2).to(q.dtype), state.to(q.dtype if past is None else past.dtype)


def flex_attention(node: Node, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose scores and probabilities subgraphs may change."""
    precision = node.get("softmax_precision")
    wide = dtype_of(precision) if precision else torch.promote_types(q.dtype, torch.float32)
    scale = node.get("scale")
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    scores = _scaled_product(q, _for_queries(k, q.shape[1]), scale).to(wide)
    change_scores, change_weights = node.get("score_mod"), node.get("prob_mod")
    if change_scores:
        (scores,) = change_scores([scores])
    weights = scores.softmax(-1)
    if change_weights:
        (weights,) = change_weights([weights])
    return (weights @ _for_queries(v, q.shape[1]).to(wide)).to(v.dtype)


FUNCTIONS: Functions = {
    "Attention": {23: attention},
    "RotaryEmbedding": {23: rotary_embedding},
    "LinearAttention": {27: linear_attention},
}
# Of the domain "ai.onnx.preview".
PREVIEW: Functions = {"FlexAttention": {1: flex_attention}}
