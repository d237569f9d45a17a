# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Multi-head attention with four linear layers as projections, in place of torch's, which holds them in bare parameters.

`nn.MultiheadAttention` multiplies by slices of one parameter inside a function, and by its output layer's weight without calling
that layer. No hook observes these products, so that all of these weights, most of a transformer's, would stay float.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.models.torch.layers import has_own_forward
from dyncompress.models.torch.rewriting import reference
from dyncompress.types import Batch


class Attention(nn.Module):
    """`nn.MultiheadAttention` in eval mode, computed by the layers `q_proj`, `k_proj`, `v_proj` and `out_proj`.

    Attributes:
        batch_first: whether inputs are `[n, T, features]`; if not, they are `[T, n, features]`.
        num_heads, head_dim: the projections have `num_heads * head_dim` output features.
    """

    # torch's encoder layers read these attributes before they take a fused path, which would skip the projections.
    _qkv_same_embed_dim = False
    in_proj_weight = in_proj_bias = bias_k = bias_v = None
    add_zero_attn = False

    def __init__(self, source: nn.MultiheadAttention) -> None:
        """Copy the weights of torch's module, which must have neither `bias_k`, `bias_v` nor `add_zero_attn`."""
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = source.embed_dim, source.kdim, source.vdim
        self.num_heads, self.head_dim = source.num_heads, source.head_dim
        self.dropout, self.batch_first = source.dropout, source.batch_first
        packed = source.in_proj_weight
        weights = (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight) if packed is None else packed.chunk(3)
        biases = (None,) * 3 if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out_proj = _linear(source.out_proj.weight, source.out_proj.bias)
        self.training = source.training

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention with the arguments and results of `nn.MultiheadAttention.forward`.

        Raises:
            RuntimeError: `is_causal` is given without a mask, as in torch's module.
        """
        if query.ndim == 2:
            axis = 0 if self.batch_first else 1
            padding = None if key_padding_mask is None else key_padding_mask[None]
            q, k, v = (x.unsqueeze(axis) for x in (query, key, value))
            output, weights = self.forward(q, k, v, padding, need_weights, attn_mask, average_attn_weights, is_causal)
            return output.squeeze(axis), None if weights is None else weights.squeeze(0)
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        hint = is_causal and key_padding_mask is None and not need_weights  # as in torch, the mask isn't checked
        mask = self._mask(None if hint else attn_mask, key_padding_mask, query.dtype)
        if not self.batch_first:  # hooks on the projections expect the batch axis first
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        if not need_weights:
            values = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=hint)
            return self._project_output(values), None
        scores = (q * self.head_dim**-0.5) @ k.mT
        if mask is None:
            weights = scores.softmax(-1)
            return self._project_output(weights @ v), weights.mean(1) if average_attn_weights else weights
        # torch returns NaN for a query whose keys are all masked. It is written after the layers, so that no hook observes it.
        empty = mask.amax(-1, keepdim=True) == float("-inf")
        weights = (scores + mask.masked_fill(empty, 0.0)).softmax(-1)
        rows = empty.to(scores.dtype).amax(1) > 0
        output = self._project_output(weights @ v).masked_fill(rows if self.batch_first else rows.transpose(0, 1), float("nan"))
        weights = weights.masked_fill(empty, float("nan"))
        return output, weights.mean(1) if average_attn_weights else weights

    def _heads(self, x: Tensor) -> Tensor:
        """Projected features as `[n, heads, T, head_dim]`."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _project_output(self, values: Tensor) -> Tensor:
        """The output projection of the heads' values `[n, heads, T, head_dim]`, in the layout of the inputs."""
        output = self.out_proj(values.transpose(1, 2).flatten(2))
        return output if self.batch_first else output.transpose(0, 1)

    def _mask(self, attention: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """The mask that is added to the scores, `[n or 1, heads or 1, T or 1, S]`: minus infinity at masked positions.

        Args:
            attention: `[T, S]` or `[n * heads, T, S]`; a boolean mask is True at masked positions.
            padding: `[n, S]`, likewise.
            dtype: of the scores.
        """
        mask = None
        if attention is not None:
            mask = _additive_mask(attention, dtype)
            mask = mask[None, None] if mask.ndim == 2 else mask.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            keys = _additive_mask(padding, dtype)[:, None, None]
            mask = keys if mask is None else mask + keys
        return mask


def _additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add to the scores: minus infinity where a boolean mask is True."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with a copy of this weight and bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer.eval()


def separate_projections(module: nn.Module, example: Batch, names: Sequence[str]) -> None:
    """Replace torch's attention modules by `Attention`, in place, wherever the outputs don't change.

    Args:
        module: a private copy in eval mode.
        example: one batch by input name.
        names: input names, in order.
    """
    sources = [part for part in module.modules() if isinstance(part, nn.MultiheadAttention) and _can_be_separated(part, module)]
    before = reference(module, example, names) if sources else None
    if before is None:
        return
    new = {part: Attention(part) for part in sources}
    _exchange(module, new)
    if before.holds():
        return
    _exchange(module, {other: part for part, other in new.items()})
    for part, other in new.items():
        _exchange(module, {part: other})
        if not before.holds():
            _exchange(module, {other: part})


def _can_be_separated(part: nn.MultiheadAttention, module: nn.Module) -> bool:
    """Whether `Attention` can replace a module: torch's own forward, no extra keys, and weights that no other module shares."""
    changed = part is module or "forward" in vars(part) or type(part).forward is not nn.MultiheadAttention.forward
    extra = part.bias_k is not None or part.bias_v is not None or part.add_zero_attn
    if changed or extra or not isinstance(part.out_proj, nn.Linear) or has_own_forward(part.out_proj):
        return False
    holders: dict[int, set[int]] = {}
    for holder in module.modules():
        for parameter in holder._parameters.values():
            holders.setdefault(id(parameter), set()).add(id(holder))
    return all(len(holders[id(parameter)]) == 1 for parameter in part.parameters())


def _exchange(module: nn.Module, new: dict[nn.Module, nn.Module]) -> None:
    """Replace modules by others, under every name that they have, in place."""
    for parent in list(module.modules()):
        for key, child in list(parent._modules.items()):
            if child in new:
                parent._modules[key] = new[child]
