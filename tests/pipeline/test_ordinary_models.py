"""Common traits of models: masks of -inf, fused encoders, a fixed batch size, integer outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.recipe.toml_files import load_recipe
from tests.running import session_of
from tests.traits.batches import Loop
from tests.traits.subject import with_values_of_training

TARGET = "onnxruntime-x86-vnni"


def seeded(build: type[nn.Module], *arguments: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return with_values_of_training(build(*arguments)).eval()


class Masked(nn.Module):
    """Attention with a causal mask in a buffer, or a padding mask as an input."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.e, self.a, self.o = nn.Linear(8, 32), nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 5)
        self.causal = causal
        self.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1), persistent=False)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.e(x)
        y, _ = self.a(x, x, x, attn_mask=self.mask if self.causal else None, key_padding_mask=None if self.causal else ~keep)
        return self.o((x + y * keep[..., None]).mean(1))


class Encoder(nn.Module):
    """torch's own encoder layer, which runs as one fused operation in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.o = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.body(x, src_mask=torch.full((6, 6), float("-inf")).triu(1))[:, -1])


class Answer(nn.Module):
    """Returns a class and no scores."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).argmax(1)


def quick(recipe: str) -> dc.Recipe:
    spec = load_recipe(recipe)
    return replace(spec, mirrored=False, distill=replace(spec.distill, epochs=min(1, spec.distill.epochs)))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def off_by(file: dc.OnnxFile, inputs: dict[str, Tensor], wanted: Tensor) -> float:
    session = session_of(file.body)
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    right = wanted.detach().numpy()
    return float(np.sqrt(np.mean((found - right) ** 2) / np.mean(right**2)))


@pytest.mark.parametrize("recipe", ["edge-int8", pytest.param("packed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("causal", [False, True], ids=["padding", "causal"])
def test_masked_scores_are_not_a_fault_of_the_data(causal: bool, recipe: str) -> None:
    model = seeded(Masked, causal)
    batch = {"x": random(64, 6, 8), "keep": torch.arange(6)[None] < torch.arange(64)[:, None] % 5 + 2}
    file = dc.compress(model, quick(recipe), target=TARGET, calibration=batch)
    few = {name: value[:16] for name, value in batch.items()}
    names = {value.name for value in session_of(file.body).get_inputs()}
    wanted = model(**few)
    assert off_by(file, {name: value for name, value in few.items() if name in names}, wanted) < (
        0.06 if recipe == "edge-int8" else 0.9
    )


def test_an_encoder_layer_is_observed_layer_by_layer() -> None:
    model, x = seeded(Encoder), random(64, 6, 16)
    before = torch.backends.mha.get_fastpath_enabled()
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=x)
    assert {"body.linear1", "body.linear2", "o"} <= set(file.plan.asked)
    assert off_by(file, {"x": x[:16]}, model(x[:16])) < 0.06
    assert torch.backends.mha.get_fastpath_enabled() == before, "the caller's setting stays"


@pytest.mark.parametrize("recipe", ["edge-int8", "packed"])
def test_a_file_with_a_fixed_batch_size_is_calibrated_in_pieces(recipe: str) -> None:
    model, x = seeded(Loop), random(40, 3, 8, 8)
    file = dc.compress(model, quick(recipe), target=TARGET, calibration=x)
    assert any("batch size of the ONNX file is fixed at 2" in note for note in file.notes)
    assert off_by(file, {"x": x[:2]}, model(x[:2])) < (0.1 if recipe == "edge-int8" else 0.9)


@pytest.mark.parametrize("recipe", ["edge-int8", "sparse"])
def test_integer_outputs_need_no_gradient(recipe: str) -> None:
    model, x = seeded(Answer), random(100, 20)
    file = dc.compress(model, quick(recipe), target=TARGET, calibration=x)
    found = session_of(file.body).run(None, {"x": x.numpy()})[0]
    assert (found == model(x).numpy()).mean() > 0.6


def test_a_divergence_of_integers_is_refused() -> None:
    with pytest.raises(dc.Unsupported, match="this model returns integers alone"):
        dc.compress(seeded(Answer), quick("packed"), target=TARGET, calibration=random(100, 20))


class Biased(nn.Module):
    """Attention whose float mask is an input: 0 for positions that are kept, minus infinity for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT / 4 + bias[:, None]
        return self.o((scores.softmax(-1) @ self.v(x)).mean(1))


def test_masks_of_minus_infinity_are_calibrated_on_held_out_and_verified(tmp_path: Path) -> None:
    model = seeded(Biased)
    bias = torch.where(torch.arange(6)[None] < torch.arange(460)[:, None] % 5 + 2, 0.0, float("-inf"))
    x = random(460, 6, 8)
    with torch.no_grad():
        y = model(x, bias).argmax(1)
    held_out = {"x": x[60:], "bias": bias[60:], "y": y[60:]}
    file = dc.compress(model, "edge-int8", target=TARGET, calibration={"x": x[:60], "bias": bias[:60]}, held_out=held_out)
    assert file.certificate is not None
    path = file.save(tmp_path / "small.onnx")
    assert dc.verify(path, held_out={name: value.numpy() for name, value in held_out.items()}).kept


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_held_out_values_that_are_nan_or_infinite_are_refused(value: float) -> None:
    model, x = seeded(Loop).train(False), random(440, 3, 8, 8)
    with torch.no_grad():
        y = model(x).argmax(1)
    spoilt = x[40:].clone()
    spoilt[7, 0, 0, 0] = value
    with pytest.raises(dc.InvalidRequest, match=r"held-out data: input .x. holds 1 NaN or infinite values .first in example 7"):
        dc.compress(model, "edge-int8", target=TARGET, calibration=x[:40], held_out=(spoilt, y[40:]))
