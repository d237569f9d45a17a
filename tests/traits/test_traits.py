"""Models with the traits of public bug reports are compressed, or refused with a sentence that says what to change."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

import dyncompress as dc
from dyncompress.models import load
from dyncompress.models.data import as_batches
from dyncompress.models.signature import resolve_inputs
from dyncompress.models.torch.calling import tensors_of
from dyncompress.models.torch.copying import unwrap
from dyncompress.recipe.toml_files import load_recipe
from tests.running import session_of
from tests.traits import attention, batches, calls, numbers, sequences, wrappers
from tests.traits.subject import Subject

TARGET = "onnxruntime-x86-vnni"
THEMES = {
    "attention": attention,
    "batches": batches,
    "calls": calls,
    "numbers": numbers,
    "sequences": sequences,
    "wrappers": wrappers,
}
SUBJECTS = {f"{theme}: {name}": s for theme, module in THEMES.items() for name, s in module.SUBJECTS.items()}
REFUSED = {name: subject for name, subject in SUBJECTS.items() if subject.refused}
COMPRESSED = {name: subject for name, subject in SUBJECTS.items() if not subject.refused}
# Compiling takes seconds for any model; sequences and several encoders have separate tests, some masks are part of others.
LONG = {name for name in COMPRESSED if "compiled part" in name or "Transformer" in name or "norm first" in name}
LONG |= {
    f"attention: {name}"
    for name in ("padding mask", "causal mask in a buffer", "causal mask made in forward", "tied table of words")
}
LONG |= {"wrappers: scripted", "wrappers: traced", "wrappers: exported program"}  # tests/models/onnx/test_programs.py has such
LONG |= {name for name in COMPRESSED if name.startswith("sequences:")} - {"sequences: RNN", "sequences: LSTM cell"}
WHOLE = [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in COMPRESSED]
# Largest root mean square difference of an int8 file from the model: a few roundings of activations, on untrained networks.
NEAR = 0.06


def quick(recipe: str) -> dc.Recipe:
    """The recipe for data that are not images, with at most one epoch of distillation."""
    spec = load_recipe(recipe)
    epochs, weight_epochs = min(1, spec.distill.epochs), min(1, spec.distill.weight_epochs)
    return replace(spec, mirrored=False, distill=replace(spec.distill, epochs=epochs, weight_epochs=weight_epochs))


def compressed(subject: Subject, recipe: str) -> tuple[Any, dc.OnnxFile]:
    """The model and its file; warnings of torch about the model itself are ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = subject.model()
        return model, dc.compress(model, quick(recipe), target=TARGET, calibration=subject.data())


def off_by(model: Any, file: dc.OnnxFile, subject: Subject) -> float:
    """Root mean square difference between the first outputs of file and model, on a batch that the file accepts."""
    data = subject.fresh() if subject.fresh else subject.data()
    names, data = resolve_inputs(load(model), data)
    called = model.module() if isinstance(model, torch.export.ExportedProgram) else unwrap(model)
    batch = as_batches(data, names, unchecked=True)[0]
    session = session_of(file.body)
    size = session.get_inputs()[0].shape[0]
    rows = {name: torch.as_tensor(value)[: size if isinstance(size, int) else 16] for name, value in batch.items()}
    kinds = {p.dtype for p in called.parameters() if p.is_floating_point()}
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    own = {name: value.to(kind) if value.is_floating_point() else value for name, value in rows.items()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = called(**own) if isinstance(data, dict) else called(*own.values())
    wanted = tensors_of(found)[0].float().numpy()
    inputs = {value.name: rows[value.name].numpy() for value in session.get_inputs()}
    answer = session.run(None, inputs)[0]
    assert answer.shape == wanted.shape
    return float(np.sqrt(np.mean((answer - wanted) ** 2) / np.mean(wanted**2)))


@pytest.mark.parametrize("name", WHOLE)
def test_an_ordinary_model_is_compressed_and_its_file_computes_the_same(name: str) -> None:
    subject = COMPRESSED[name]
    model, file = compressed(subject, "edge-int8")
    assert off_by(model, file, subject) < NEAR
    shares = file.plan.share_left_alone
    assert 0 <= shares["weights"] < 1, "the run tells the share that it leaves alone, and it isn't all"
    assert set(file.plan.reasons) >= {layer for layer, reason in file.plan.reasons.items() if reason}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_compressed_is_refused_with_one_sentence(name: str) -> None:
    with pytest.raises(dc.DyncompressError, match=REFUSED[name].refused) as caught:
        compressed(REFUSED[name], "edge-int8")
    text = str(caught.value)
    assert "\n" not in text and text.rstrip().endswith((".", ")")) and len(text) < 600


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["edge-int4", "packed", "sparse", "narrow"])
@pytest.mark.parametrize("name", COMPRESSED)
def test_other_recipes_compress_it_or_give_the_reason(name: str, recipe: str) -> None:
    subject = COMPRESSED[name]
    try:
        model, file = compressed(subject, recipe)
    except dc.DyncompressError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 900
        return
    error = off_by(model, file, subject)
    told = [output for output in file.parity.outputs if output.relative_error > 0.25 or output.channel_error > 0.25]
    assert error < 0.5 or told, "a file that is far from its model says so"


def test_the_callers_model_does_not_change() -> None:
    for name in ("wrappers: weight norm, old", "sequences: LSTM", "calls: own BatchNorm", "numbers: one part in float16"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = COMPRESSED[name].model()
        before = copy.deepcopy({key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)})
        kinds = {key: type(part) for key, part in model.named_modules()}
        dc.compress(model, quick("edge-int8"), target=TARGET, calibration=COMPRESSED[name].data())
        assert {key: type(part) for key, part in model.named_modules()} == kinds
        assert all(
            torch.equal(value, before[key]) and value.dtype == before[key].dtype for key, value in model.state_dict().items()
        )


def test_a_tied_table_is_stored_once() -> None:
    subject = COMPRESSED["attention: tied table of words"]
    file = dc.compress(subject.model(), quick("edge-int8"), target=TARGET, calibration=subject.data())
    tables = [t for t in onnx.load_from_string(file.body).graph.initializer if sorted(t.dims) == [30, 32]]
    assert len(tables) == 1 and tables[0].data_type == onnx.TensorProto.INT8


@pytest.mark.parametrize(
    ("recipe", "mode"),
    [
        ("packed", torch.inference_mode),
        ("narrow", torch.no_grad),
        pytest.param("packed", torch.no_grad, marks=pytest.mark.slow),
        pytest.param("narrow", torch.inference_mode, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_mode_of_the_caller_changes_nothing(recipe: str, mode: Any) -> None:
    subject = SUBJECTS["numbers: channels last"]
    _, plain = compressed(subject, recipe)
    with mode():
        _, other = compressed(subject, recipe)
    assert other.body == plain.body


def test_every_theme_has_models_and_there_are_sixty_at_least() -> None:
    assert len(SUBJECTS) >= 60 and all(len(module.SUBJECTS) >= 9 for module in THEMES.values())
