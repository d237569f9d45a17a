"""Profiles are restored exactly from JSON, and compressed models from their plan and tensors."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.opening import open_model
from dyncompress.pipeline.checkpoint import load, save_compressed
from dyncompress.recipe.profile_file import load_profile, profile_from_json, profile_to_json, save_profile
from dyncompress.types import Choice, Compressed, Estimate, Keep, Layer, Option, Plan, Profile, SetWeight
from tests.models.torch.test_plain_layers import Partial, Table, words
from tests.traits import attention, calls
from tests.traits.subject import ids, images

PROFILE = Profile(
    layers=(Layer("a", "conv2d", (4, 3, 3, 3), 100), Layer("é", "embedding", (9, 2), 0, left_alone="shared")),
    estimates={"hill": {"a": Estimate(1.0 / 3, 0.1, 36, notes=("short",)), "é": Estimate(math.nan, math.inf, 0, valid=False)}},
    table={
        "a": (Option(Choice(weight_bits=4, sparsity=0.5), 18.0, 100.0, 1e-300), Option(Choice(), 432.0, 100.0, 0.0, 0.25)),
        "channels:g": (Option(Choice(keep=2, indices=(0, 3)), -9.5, -50.0, 0.125),),
    },
    source={"a": "fisher", "channels:g": "fisher"},
    reasons={"é": "shared"},
    float_bytes=1000,
    fixed_bytes=100,
    macs=100,
    digest="ab",
    recipe="smallest",
    target="any",
    notes=("a note",),
)


def same(a: object, b: object) -> bool:
    """Equality where nan equals nan."""
    return repr(a) == repr(b)


def test_a_profile_survives_exactly(tmp_path: Path) -> None:
    text = profile_to_json(PROFILE)
    assert same(profile_from_json(text), PROFILE)
    assert profile_to_json(profile_from_json(text)) == text
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    path = save_profile(PROFILE, tmp_path / "profile.json")
    assert same(load_profile(path), PROFILE)
    assert list(tmp_path.iterdir()) == [path]
    path.write_text(json.dumps({"depends_on": "key", "profile": json.loads(text)}))
    assert same(load_profile(path), PROFILE)


def test_numpy_numbers_are_numbers() -> None:
    odd = dataclasses.replace(
        PROFILE, float_bytes=np.int64(1000), table={"a": (Option(Choice(), np.float32(0.5), 1, np.float64(2)),)}
    )
    again = profile_from_json(profile_to_json(odd))
    assert again.float_bytes == 1000 and again.table["a"][0].bytes == 0.5


def test_foreign_and_truncated_files_are_refused(tmp_path: Path) -> None:
    text = profile_to_json(PROFILE)
    for cut in range(0, len(text) - 2, 11):
        with pytest.raises(InvalidRequest, match=r"^profile: the file is truncated or no JSON"):
            profile_from_json(text[:cut])
    for foreign, sentence in (
        ("[1]", "no file of dyncompress"),
        ("{}", "this is no profile of dyncompress"),
        ('{"format": "dyncompress.certificate", "schema": 1}', "this is no profile of dyncompress"),
        (text.replace('"schema":1', '"schema":7'), "schema 7 is read by another version"),
        (text.replace('"float_bytes"', '"floatbytes"'), "unknown key 'floatbytes'; did you mean 'float_bytes'?"),
        (text.replace('"float_bytes":1000', '"float_bytes":"many"'), "'float_bytes' is 'many'; an integer is needed."),
    ):
        with pytest.raises(InvalidRequest) as caught:
            profile_from_json(foreign)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="no such file"):
        load_profile(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="no text in UTF-8"):
        load_profile(tmp_path / "binary.json")
    with pytest.raises(InvalidRequest, match="nothing was written"):
        save_profile(PROFILE, tmp_path / "no" / "folder.json")


# ---------------------------------------------------------------- compressed models
def net(seed: int = 0, width: int = 8) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 6, 3), nn.ReLU()
        module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
        module[1].running_mean.normal_()  # type: ignore[union-attr, operator]
        module[1].running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator]
        return module.eval()


def compressed(calibrated: bool = True) -> Compressed:
    """A model whose first convolution keeps five of eight channels and whose last layer has new weights."""
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    adapter = open_model(net(), {"input": x[:2]})
    group = next(g for g in adapter.channel_groups() if "0" in g.producers)
    kept = (0, 2, 3, 5, 7)
    edited = adapter.edited([SetWeight("7", torch.full((4, 6), 0.25)), Keep(group.name, kept)])
    unit = f"channels:{group.name}"
    shapes = {layer.name: tuple(layer.shape) for layer in adapter.layers()}
    plan = Plan(
        {unit: Choice(keep=5)},
        {},
        {},
        {"bytes": 1.0},
        0.0,
        0.0,
        "r",
        "t",
        adapter.state_digest,
        shapes,
        {},
        {unit: Choice(keep=5, indices=kept)},
    )
    return Compressed(edited, {}, plan, {}, [{"input": x}] if calibrated else [])


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_compressed_model_comes_back(calibrated: bool, tmp_path: Path) -> None:
    small = compressed(calibrated)
    folder = save_compressed(small, tmp_path / "small")
    module = load(lambda: net(seed=5), folder)
    assert not module.training
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(module(x), small.module(x), rtol=0, atol=0)
    assert next(tuple(p.shape) for p in module.parameters()) == (5, 3, 3, 3)


OTHERWISE = {
    "a bias that is read elsewhere": (lambda: calls.two(Partial), images),
    "BatchNorm inside": (lambda: calls.two(calls.ConvNorm), images),
    "a computed weight": (lambda: calls.two(calls.ScaledStd), images),
    "attention": (attention.Causal, attention.sequences),
    "a table through a function": (lambda: words(Table), lambda: ids(64, 6)),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_layers_inside_the_caller_s_modules_come_back(name: str, tmp_path: Path) -> None:
    build, data = OTHERWISE[name]
    torch.manual_seed(0)
    small = dc.apply(*_planned(build().eval(), data()), calibration=data())
    torch.manual_seed(1)
    module = load(build, save_compressed(small, tmp_path / "small"))
    torch.testing.assert_close(module(data()), small.module(data()), rtol=0, atol=0)


def _planned(model: torch.nn.Module, data: torch.Tensor) -> tuple[torch.nn.Module, Plan]:
    """The model, and its compression by `edge-int4`."""
    profile = dc.measure(model, "edge-int4", target="onnxruntime-x86-vnni", calibration=data)
    return model, dc.allocate(profile, dc.Budget(bytes=0.9))


def test_no_example_is_stored(tmp_path: Path) -> None:
    small = compressed()
    folder = save_compressed(small, tmp_path)
    pixels = small.calibration[0]["input"][0].numpy().tobytes()[:64]
    assert not any(pixels in path.read_bytes() for path in folder.iterdir())


def test_broken_directories_and_wrong_networks_are_refused(tmp_path: Path) -> None:
    folder = save_compressed(compressed(), tmp_path / "small")
    with pytest.raises(InvalidRequest, match="wrong network"):
        load(lambda: net(width=16), folder)
    with pytest.raises(InvalidRequest, match="no such file"):
        load(net, tmp_path / "absent")
    for name, content in (("weights.safetensors", b""), ("model.json", b"{"), ("plan.toml", b"schema = ")):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(InvalidRequest) as caught:
            load(net, folder)
        assert name in str(caught.value) and "\n" not in str(caught.value)
        (folder / name).write_bytes(kept)
    assert load(net, folder) is not None


def test_impossible_shapes_and_ranks_are_refused(tmp_path: Path) -> None:
    folder = save_compressed(compressed(), tmp_path / "small")
    form = (folder / "model.json").read_text()
    for old, new in (('"float32"', '"float33"'), ('"inputs"', '"input"'), ('["float32", 2', '["float32", -2')):
        assert old in form
        (folder / "model.json").write_text(form.replace(old, new, 1))
        with pytest.raises(InvalidRequest, match=r"model\.json: the form of the inputs can't be read .*; save the model again\."):
            load(net, folder)
    (folder / "model.json").write_text(form)
    plan = (folder / "plan.toml").read_text()
    text = plan.replace("[left_alone]", '[realised."7"]\nrank = 1000000000000\n\n[left_alone]', 1)
    (folder / "plan.toml").write_text(text)
    with pytest.raises(InvalidRequest, match=r"layer '7' was realised with rank 1000000000000; it can have a rank of 1 to 4\."):
        load(net, folder)
