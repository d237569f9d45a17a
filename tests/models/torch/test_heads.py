"""Attention heads and feed-forward widths of transformers: found, and removed exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.types import Batch, ChannelGroup, Keep, SetWeight, Weight
from tests.running import session_of

transformers = pytest.importorskip("transformers", reason='needs transformers: pip install "dyncompress[recording]"')

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns of its own settings
TOKENS = {"input_ids": torch.arange(18).reshape(2, 9) * 7 % 50}
LONGER = {"input_ids": torch.arange(42).reshape(3, 14) * 11 % 50}


class Fused(nn.Module):
    """One layer for queries, keys and values, and a number of heads that only the code knows."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(6, 72), nn.Linear(24, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.head(x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


class Reshaped(nn.Module):
    """Attention that reshapes by its stored width: the width has to shrink with the number of heads."""

    def __init__(self, heads: int = 4, normed: bool = False) -> None:
        super().__init__()
        self.heads, self.width = heads, 24
        self.q, self.k, self.v, self.o = nn.Linear(6, 24), nn.Linear(6, 24), nn.Linear(6, 24), nn.Linear(24, 6)
        self.norm = nn.LayerNorm(24) if normed else nn.Identity()

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, self.width // self.heads).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.norm(self.q(x))), self.split(self.k(x)), self.split(self.v(x))
        mixed = torch.softmax(q @ k.mT * (self.width // self.heads) ** -0.5, -1) @ v
        return x + self.o(mixed.transpose(1, 2).reshape(len(x), -1, self.width))


def tokens_of(family: str, **more: int) -> nn.Module:
    """A small network of two blocks with random weights, large enough that a wrong head shows."""
    config = getattr(transformers, f"{family}Config")(
        vocab_size=50, num_hidden_layers=2, initializer_range=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=0, **more
    )
    return getattr(transformers, f"{family}Model")(config)


SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 32}
VECTORS = {"x": torch.randn(2, 5, 6)}, {"x": torch.randn(3, 7, 6)}
WIDE = {"src": torch.randn(2, 5, 32)}, {"src": torch.randn(3, 7, 32)}
IMAGES = {"pixel_values": torch.randn(2, 3, 16, 16)}, {"pixel_values": torch.randn(3, 3, 16, 16)}
# family -> network, example and other inputs, heads, rows of each producer for a head, parts, hidden units
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Batch, Batch], int, tuple[int, ...], int, int]] = {
    "BERT": (lambda: tokens_of("Bert", **SIZES), (TOKENS, LONGER), 4, (8, 8, 8), 1, 48),
    "GPT-2": (lambda: tokens_of("GPT2", n_embd=32, n_head=4, n_inner=48, n_positions=32), (TOKENS, LONGER), 4, (8,), 3, 48),
    "Llama": (lambda: tokens_of("Llama", **SIZES, num_key_value_heads=2), (TOKENS, LONGER), 2, (16, 8, 8), 1, 48),
    "GPT-NeoX": (lambda: tokens_of("GPTNeoX", **SIZES), (TOKENS, LONGER), 4, (24,), 1, 48),
    "ViT": (lambda: tokens_of("ViT", **SIZES, image_size=16, patch_size=8), IMAGES, 4, (8, 8, 8), 1, 48),
    "torch": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2, enable_nested_tensor=False),
        WIDE,
        4,
        (8, 8, 8),
        1,
        48,
    ),
    "fused": (Fused, VECTORS, 6, (4,), 3, 0),
    "reshaped": (Reshaped, VECTORS, 4, (6, 6, 6), 1, 0),
}


def opened(make: Callable[[], nn.Module], example: Batch) -> TorchModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_model(make().eval(), example)


def silenced(model: TorchModel, group: ChannelGroup, gone: list[int]) -> TorchModel:
    """The model with the columns that these channels own set to zero."""
    weights = {name: o[Weight()] for name, o in model.observe((Weight(),)) if name in group.consumers}
    for name, n in group.consumers.items():
        for channel in gone:
            weights[name][:, channel * n : (channel + 1) * n] = 0
    return model.edited([SetWeight(name, weight) for name, weight in weights.items()])


@pytest.mark.parametrize("family", CASES)
def test_removing_heads_is_silencing_the_projection_that_reads_them(family: str) -> None:
    make, (example, others), heads, rows, parts, units = CASES[family]
    model = opened(make, example)
    groups = model.channel_groups()
    of_heads = [group for group in groups if group.rows]
    assert [(g.size, tuple(g.rows.values()), g.parts) for g in of_heads] == [(heads, rows, parts)] * (2 if units else 1)
    assert [g.size for g in groups if not g.rows] == ([units] * 2 if units else [])
    before = model.predict(others)[0].clone()
    for group in (of_heads[0], groups[-1]):
        gone = [0] if group.size == 2 else [0, 2]
        stays = tuple(c for c in range(group.size) if c not in gone)
        small = model.edited([Keep(group.name, stays)])
        torch.testing.assert_close(
            small.predict(others)[0], silenced(model, group, gone).predict(others)[0], rtol=1e-3, atol=1e-4 * float(before.std())
        )
        assert small.kept[group.producers[0]] == group.rows_of(group.producers[0], stays)
        share = len(stays) / group.size
        assert next(la for la in small.layers() if la.name == group.producers[-1]).out == share * len(
            group.rows_of(group.producers[-1], range(group.size))
        )
    assert torch.equal(model.predict(others)[0], before), "the model itself stays as it is"


def test_heads_and_hidden_units_go_together_and_again() -> None:
    model = opened(CASES["BERT"][0], TOKENS)
    half = model.edited([Keep(group.name, tuple(range(group.size // 2))) for group in model.channel_groups()])
    assert [group.size for group in half.channel_groups()] == [2, 24, 2, 24]
    attention = half.module.get_submodule("encoder.layer.0.attention.self")
    assert attention.num_attention_heads == 2, "the stored number follows"
    least = half.edited([Keep(group.name, (1,)) for group in half.channel_groups()])
    assert least.kept["encoder.layer.1.attention.self.key"] == tuple(range(8, 16))
    assert bool(torch.isfinite(least.predict(LONGER)[0]).all()) and least.channel_groups() == ()
    assert "single head" in least.fixed_channels()["encoder.layer.0.attention.self.query"]


def test_the_file_of_a_network_without_some_heads_runs_on_sequences_of_any_length() -> None:
    model = opened(lambda: tokens_of("Bert", **SIZES), TOKENS).with_free_axes({"input_ids": (1,)})
    small = model.edited([Keep(group.name, (1, 3)) for group in model.channel_groups()])
    found = session_of(small.to_onnx()[0]).run(None, {name: value.numpy() for name, value in LONGER.items()})[0]
    torch.testing.assert_close(torch.from_numpy(found), small.predict(LONGER)[0], rtol=1e-3, atol=1e-4)


def test_heads_that_something_else_counts_stay_and_say_why() -> None:
    size = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2}
    config = transformers.T5Config(vocab_size=50, initializer_factor=1.0, **size)
    for model, query in (
        (opened(lambda: transformers.T5EncoderModel(config), TOKENS), "encoder.block.0.layer.0.SelfAttention.q"),
        (opened(lambda: Reshaped(normed=True), VECTORS[0]), "q"),
    ):
        assert not [group for group in model.channel_groups() if group.rows]
        assert "heads can't be removed" in model.fixed_channels()[query] and "norm" in model.fixed_channels()[query]


def test_a_single_head_is_no_group() -> None:
    model = opened(lambda: Reshaped(heads=1), VECTORS[0])
    assert not [group for group in model.channel_groups() if group.rows]
    assert "single head" in model.fixed_channels()["q"]


def test_gates_and_values_of_one_layer_go_together() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up, self.down = nn.Linear(6, 20), nn.Linear(10, 6)

        def forward(self, x: Tensor) -> Tensor:
            gate, up = self.gate_up(x).chunk(2, -1)
            return x + self.down(functional.silu(gate) * up)

    model = opened(Gated, VECTORS[0])
    (group,) = model.channel_groups()
    assert (group.size, group.parts, dict(group.rows)) == (10, 2, {})
    small = model.edited([Keep("gate_up", (1, 3, 4))])
    assert small.kept["gate_up"] == (1, 3, 4, 11, 13, 14)
    wanted = silenced(model, group, [0, 2, *range(5, 10)]).predict(VECTORS[1])[0]
    torch.testing.assert_close(small.predict(VECTORS[1])[0], wanted, rtol=1e-4, atol=1e-5)
