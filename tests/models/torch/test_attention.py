"""Attention with layers for its projections computes what torch's does, under every mask; all its weights are compressed."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.models.torch.attention import Attention
from dyncompress.models.torch.layers import canonical, compressible_modules, digest_of
from dyncompress.models.torch.opening import open_model
from dyncompress.recipe.toml_files import load_recipe
from dyncompress.types import InputMoment, OutputFisher, SetWeight
from tests.running import session_of
from tests.traits import attention
from tests.traits.subject import randn, seeded

TARGET = "onnxruntime-x86-vnni"
N, T, S, HEADS = 3, 5, 7, 4


def masks(kind: str, shape: tuple[int, ...], heavy: bool) -> Tensor | None:
    """A random mask; a heavy one leaves some queries nothing to look at."""
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(len(kind))
    hidden = torch.rand(*shape, generator=generator) < (0.8 if heavy else 0.4)
    hidden[..., 0] &= heavy
    numbers = torch.randn(*shape, generator=generator)
    return hidden if kind.startswith("bool") else numbers.masked_fill(hidden, float("-inf"))


def shape_of(kind: str) -> tuple[int, ...]:
    """`[T, S]`, or one for each example and head."""
    return (N * HEADS, T, S) if kind.endswith("3") else (T, S)


LAYOUTS = {
    "batch first": {"batch_first": True},
    "positions first": {},
    "no bias": {"bias": False, "batch_first": True},
    "other features": {"kdim": 12, "vdim": 20, "batch_first": True},
    "other features, no bias": {"kdim": 12, "vdim": 20, "bias": False},
}
MASKS = list(product(("none", "bool", "float", "bool 3", "float 3"), ("none", "bool", "float"), (False, True)))


def modules(layout: str) -> tuple[nn.MultiheadAttention, Attention]:
    """Torch's module with biases that aren't zero, and ours."""
    source = seeded(lambda: nn.MultiheadAttention(16, HEADS, dropout=0.5, **LAYOUTS[layout]))()
    for parameter in source.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return source, Attention(source)


def inputs(source: nn.MultiheadAttention) -> list[Tensor]:
    found = [randn(N, T, 16), randn(N, S, source.kdim, seed=2), randn(N, S, source.vdim, seed=3)]
    return found if source.batch_first else [x.transpose(0, 1) for x in found]


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_computes_what_torch_computes(layout: str) -> None:
    source, ours = modules(layout)
    given = inputs(source)
    for (on_scores, on_keys, heavy), need, average in product(MASKS, (True, False), (True, False)):
        keywords = {
            "attn_mask": masks(on_scores, shape_of(on_scores), heavy),
            "key_padding_mask": masks(on_keys, (N, S), heavy),
            "need_weights": need,
            "average_attn_weights": average,
        }
        wanted, found = source(*given, **keywords), ours(*given, **keywords)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5, equal_nan=True)
        assert (found[1] is None) == (wanted[1] is None)
        if need:
            torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("need", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("layout", ["batch first", "positions first"])
def test_the_hint_that_a_mask_is_causal_changes_nothing(layout: str, padded: bool, need: bool) -> None:
    source, ours = modules(layout)
    x = inputs(source)[0]
    keywords = {
        "attn_mask": nn.Transformer.generate_square_subsequent_mask(T),
        "key_padding_mask": torch.arange(T)[None] > torch.tensor([1, 3, 4])[:, None] if padded else None,
        "need_weights": need,
        "is_causal": True,
    }
    torch.testing.assert_close(ours(x, x, x, **keywords)[0], source(x, x, x, **keywords)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="attn_mask"):
        ours(x, x, x, is_causal=True)


@pytest.mark.parametrize("layout", ["batch first", "positions first"])
@pytest.mark.parametrize("padded", [True, False])
def test_one_sequence_without_a_batch_axis(layout: str, padded: bool) -> None:
    source, ours = modules(layout)
    x = randn(T, 16)
    padding = torch.tensor([False, False, True, False, True]) if padded else None
    wanted, found = source(x, x, x, key_padding_mask=padding), ours(x, x, x, key_padding_mask=padding)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Extra(attention.SelfAttention):
    """Attention that can't be taken apart, or needn't be."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        if how == "bias rows":
            self.a = nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True)
        if how == "zero row":
            self.a = nn.MultiheadAttention(32, 4, batch_first=True, add_zero_attn=True)
        self.b = nn.MultiheadAttention(32, 4, batch_first=True)
        if how == "shared parameter":
            self.b.in_proj_weight = self.a.in_proj_weight
        if how == "shared module":
            self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        x = x + self.attend(x)
        if self.how == "read elsewhere":
            x = x * self.a.in_proj_weight.mean()
        return self.o((x + self.b(x, x, x, need_weights=False)[0]).mean(1))


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ("bias rows", {"a"}),
        ("zero row", {"a"}),
        ("shared parameter", {"a", "b"}),
        ("read elsewhere", {"a"}),
        ("shared module", set()),
        ("plain", set()),
    ],
)
def test_attention_that_cannot_be_separated_stays(how: str, kept: set[str]) -> None:
    model, data = seeded(lambda: Extra(how))(), attention.sequences()
    wanted = model(data).detach()
    adapter = open_model(model, {"x": data[:2]})
    own = {name for name, part in adapter.module.named_modules() if isinstance(part, nn.MultiheadAttention)}
    assert own == kept
    torch.testing.assert_close(adapter.predict({"x": data})[0], wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(model.a, nn.MultiheadAttention)


def test_the_model_is_known_by_the_weights_that_it_came_with() -> None:
    model, data = seeded(attention.Causal)(), attention.sequences()
    adapter = open_model(model, {"x": data[:2]})
    assert adapter.digest() == digest_of({name: canonical(m) for name, m in compressible_modules(model).items()})
    assert adapter.state_digest == digest_of(dict(model.state_dict()))
    assert [layer.name for layer in adapter.layers()] == ["e", "a.q_proj", "a.k_proj", "a.v_proj", "a.out_proj", "o"]
    assert not any(layer.left_alone for layer in adapter.layers())


WITH_ATTENTION = (
    "padding mask", "causal mask in a buffer", "causal mask made in forward", "causal and float padding masks",
    "TransformerEncoder, norm first", "TransformerEncoder, causal", "TransformerDecoder", "tied table of words",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("causal mask") else []) for name in WITH_ATTENTION]
)
def test_new_weights_reach_the_output_and_the_file(name: str) -> None:
    subject = attention.SUBJECTS[name]
    model, data = subject.model(), subject.data()
    batch = dict(data) if isinstance(data, dict) else {next(iter(inspect.signature(model.forward).parameters)): data}
    adapter = open_model(model, {key: value[:2] for key, value in batch.items()})
    layers = [layer for layer in adapter.layers() if not layer.left_alone and layer.kind != "embedding"]
    new = adapter.edited([SetWeight(layer.name, 0.7 * adapter.module.get_submodule(layer.name).weight) for layer in layers])
    wanted = new.predict(batch)[0].numpy()
    assert np.abs(wanted - adapter.predict(batch)[0].numpy()).max() > 1e-3
    content, places = new.to_onnx()
    assert set(places) >= {layer.name for layer in layers}
    found = session_of(content).run(None, {key: value.numpy() for key, value in batch.items()})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


class Left(attention.SelfAttention):
    """Padding on the left behind a causal mask: some queries may look at nothing, and torch answers with NaN."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.e(x)
        padding = torch.zeros_like(keep, dtype=x.dtype).masked_fill(~keep, float("-inf"))
        y = self.attend(x, attn_mask=self.mask, key_padding_mask=padding)
        return self.o((x + y.masked_fill(~keep[..., None], 0)).mean(1))


def left() -> dict[str, Tensor]:
    return {"x": attention.sequences(), "keep": attention.kept().flip(1)}


def test_queries_that_may_look_at_nothing_spoil_no_observation() -> None:
    model, data = seeded(Left)(), left()
    x = model.e(data["x"])
    padding = torch.zeros(data["keep"].shape).masked_fill(~data["keep"], float("-inf"))
    assert bool(model.attend(x, attn_mask=model.mask, key_padding_mask=padding).isnan().any())
    adapter = open_model(model, {name: value[:2] for name, value in data.items()})
    found = dict(adapter.observe([InputMoment(), OutputFisher()], [data]))
    for name in ("a.q_proj", "a.k_proj", "a.v_proj", "a.out_proj", "o"):
        assert bool(found[name][InputMoment()].isfinite().all())
        assert bool(found[name][OutputFisher()].isfinite().all())


def quick(recipe: str) -> dc.Recipe:
    spec = load_recipe(recipe)
    distill = replace(spec.distill, epochs=min(1, spec.distill.epochs), weight_epochs=min(1, spec.distill.weight_epochs))
    return replace(spec, mirrored=False, distill=distill)


@pytest.mark.parametrize(
    "recipe", ["edge-int8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("edge-int4", "sparse"))]
)
def test_queries_that_may_look_at_nothing_do_not_stop_a_recipe(recipe: str) -> None:
    data = left()
    found = dc.compress(seeded(Left)(), quick(recipe), target=TARGET, calibration=data)
    assert found.plan.share_left_alone["weights"] == 0
    assert found.parity.relative_error < (0.5 if recipe == "sparse" else 0.05)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        pytest.param("causal and float padding masks", "edge-int4", marks=pytest.mark.slow),
        ("TransformerEncoder with a padding mask", "edge-int8"),
        pytest.param("TransformerDecoder", "edge-int4", marks=pytest.mark.slow),
    ],
)
def test_attention_is_compressed(name: str, recipe: str) -> None:
    subject = attention.SUBJECTS[name]
    found = dc.compress(subject.model(), quick(recipe), target=TARGET, calibration=subject.data())
    assert found.plan.share_left_alone["weights"] == 0
    assert found.parity.relative_error < 0.05
