"""Attention with masks, in the forms that are common in public code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.traits.subject import Subject, ids, randn, seeded

T, N = 6, 64  # number of positions, number of examples


def kept() -> Tensor:
    """A mask `[N, T]` that is True for present positions; each row has at least two."""
    return torch.arange(T)[None] < torch.arange(N)[:, None] % 5 + 2


def causal() -> Tensor:
    """A causal mask of 0 and minus infinity, `[T, T]`."""
    return torch.full((T, T), float("-inf")).triu(1)


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` between two linear layers; subclasses choose the masks."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.a, self.o = nn.Linear(8, 32), nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 5)
        self.register_buffer("mask", causal(), persistent=False)

    def attend(self, x: Tensor, **masks: Tensor) -> Tensor:
        """The output of the attention."""
        return self.a(x, x, x, **masks)[0]


class Padded(SelfAttention):
    """A padding mask as an input."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        x = self.e(x)
        return self.o((x + self.attend(x, key_padding_mask=~keep) * keep[..., None]).mean(1))


class Causal(SelfAttention):
    """A causal mask of 0 and minus infinity in a buffer."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        x = self.e(x)
        return self.o((x + self.attend(x, attn_mask=self.mask)).mean(1))


class CausalHere(SelfAttention):
    """A boolean causal mask that is made in the forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        x = self.e(x)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return self.o((x + self.attend(x, attn_mask=mask)).mean(1))


class Both(SelfAttention):
    """Causal and padding masks together; the attention weights are returned as well."""

    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Scores `[n, 5]`, and attention `[n, T, T]`."""
        x = self.e(x)
        y, weights = self.a(
            x, x, x, attn_mask=self.mask, key_padding_mask=torch.zeros_like(keep, dtype=x.dtype).masked_fill(~keep, float("-inf"))
        )
        return self.o((x + y).mean(1)), weights


class FloatMask(SelfAttention):
    """A float mask of 0 and minus infinity as an input, one for each example."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        x = self.e(x)
        return self.o((x + self.attend(x, attn_mask=bias.repeat_interleave(4, 0))).mean(1))


class Scaled(nn.Module):
    """`scaled_dot_product_attention` with a mask that is a plain attribute."""

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.qkv, self.o, self.mask, self.is_causal = nn.Linear(8, 96), nn.Linear(32, 5), causal(), is_causal

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.is_causal:
            return self.o(functional.scaled_dot_product_attention(q, k, v, is_causal=True)).mean(1)
        return self.o(functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)).mean(1)


class ByHand(nn.Module):
    """Attention written out, with scores plus a mask; `fill` is the value at masked places."""

    def __init__(self, fill: float, added: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 5)
        self.fill, self.added = fill, added

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        scores = self.q(x) @ self.k(x).mT / 32**0.5
        if self.added:
            scores = scores + torch.where(keep, 0.0, self.fill)[:, None]
        else:
            scores = scores.masked_fill(~keep[:, None], self.fill)
        return self.o((scores.softmax(-1) @ self.v(x)).mean(1))


class Empty(ByHand):
    """Padded positions attend to nothing, so their rows of the attention and of the output are NaN."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """`[n, T, 5]`, NaN where there is padding."""
        scores = self.q(x) @ self.k(x).mT / 32**0.5
        scores = scores.masked_fill(~(keep[:, None] & keep[:, :, None]), float("-inf"))
        return self.o(scores.softmax(-1) @ self.v(x))


class Filled(Empty):
    """The same, with NaN replaced by zero after the softmax."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """`[n, 5]`."""
        scores = self.q(x) @ self.k(x).mT / 32**0.5
        scores = scores.masked_fill(~(keep[:, None] & keep[:, :, None]), float("-inf"))
        return self.o((scores.softmax(-1).nan_to_num() @ self.v(x)).mean(1))


class Encoder(nn.Module):
    """`nn.TransformerEncoder` with a padding mask and nested tensors enabled."""

    def __init__(self, is_causal: bool = False, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
        self.e, self.body, self.o, self.is_causal = nn.Linear(8, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 5), is_causal

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        if self.is_causal:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            return self.o(self.body(self.e(x), mask=mask, is_causal=True)[:, -1] * keep.any(1, keepdim=True))
        y = self.body(self.e(x), src_key_padding_mask=~keep)
        return self.o((y * keep[..., None]).sum(1) / keep.sum(1, keepdim=True))


class Decoder(nn.Module):
    """`nn.TransformerDecoder` with a padded memory."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = nn.Linear(8, 16), nn.Linear(16, 5)
        self.body = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 1)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Scores, `[n, T, 5]`."""
        x = self.e(x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.o(self.body(x, x, tgt_mask=mask, memory_key_padding_mask=~keep))


class Slopes(nn.Module):
    """Attention with a bias by distance on the scores (ALiBi)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(8, 96), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        q, k, v = self.qkv(x).chunk(3, -1)
        at = torch.arange(x.shape[1], device=x.device)
        scores = q @ k.mT / 32**0.5 - 0.5 * (at[None] - at[:, None]).abs()
        return self.o((scores.softmax(-1) @ v).mean(1))


class Tokens(nn.Module):
    """Word indices with padding index 0, positions, an encoder, and an output layer that shares the embedding table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(30, 32, padding_idx=0), nn.Embedding(16, 32)
        self.body = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 30, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of every next word, `[n, T, 30]`."""
        x = self.table(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.body(x, src_mask=mask, is_causal=True))


def sequences() -> Tensor:
    """`[N, T, 8]`."""
    return randn(N, T, 8)


def masked() -> dict[str, Tensor]:
    """Sequences and their masks."""
    return {"x": sequences(), "keep": kept()}


SUBJECTS = {
    "padding mask": Subject(seeded(Padded), masked),
    "causal mask in a buffer": Subject(seeded(Causal), sequences),
    "causal mask made in forward": Subject(seeded(CausalHere), sequences),
    "causal and float padding masks": Subject(seeded(Both), masked),
    "float mask as an input": Subject(
        seeded(FloatMask), lambda: {"x": sequences(), "bias": torch.where(kept(), 0.0, float("-inf"))[:, None].expand(N, T, T)}
    ),
    "mask as an attribute": Subject(seeded(lambda: Scaled(False)), sequences),
    "is_causal": Subject(seeded(lambda: Scaled(True)), sequences),
    "masked_fill with minus infinity": Subject(seeded(lambda: ByHand(float("-inf"), False)), masked),
    "masked_fill with the least float": Subject(seeded(lambda: ByHand(torch.finfo(torch.float32).min, False)), masked),
    "a large negative number added": Subject(seeded(lambda: ByHand(-1e9, True)), masked),
    "minus infinity added": Subject(seeded(lambda: ByHand(float("-inf"), True)), masked),
    "NaN at padded places": Subject(seeded(lambda: Empty(float("-inf"), False)), masked, refused="nan_to_num"),
    "NaN replaced behind the softmax": Subject(seeded(lambda: Filled(float("-inf"), False)), masked),
    "TransformerEncoder with a padding mask": Subject(seeded(Encoder), masked),
    "TransformerEncoder, norm first": Subject(seeded(lambda: Encoder(norm_first=True)), masked),
    "TransformerEncoder, causal": Subject(seeded(lambda: Encoder(is_causal=True)), masked),
    "TransformerDecoder": Subject(seeded(Decoder), masked),
    "distances added to scores": Subject(seeded(Slopes), sequences),
    "tied table of words": Subject(seeded(Tokens), lambda: ids(N, T)),
}
