"""Matrices of recurrent layers: layers of their own, stored as integers, exact for the runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from dyncompress.models.torch.opening import open_model
from tests.running import session_of
from tests.traits.sequences import Cell, Recurrent, Words
from tests.traits.subject import ids, randn, seeded

TARGET = "onnxruntime-x86-vnni"
NETS = {
    "LSTM": (lambda: Recurrent(nn.LSTM), 2),
    "LSTM, two layers": (lambda: Recurrent(nn.LSTM, num_layers=2), 4),
    "LSTM, both directions": (lambda: Recurrent(nn.LSTM, bidirectional=True), 4),
    "GRU": (lambda: Recurrent(nn.GRU), 2),
    "GRU, both directions, two layers": (lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True), 8),
    "RNN": (lambda: Recurrent(nn.RNN), 2),
    "LSTM cell": (lambda: Cell(nn.LSTMCell), 2),
    "GRU cell": (lambda: Cell(nn.GRUCell), 2),
}


SHORT = ("LSTM, both directions", "RNN")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in SHORT else pytest.mark.slow) for name in NETS])
def test_every_matrix_is_a_layer_and_the_file_computes_what_the_compressed_model_computes(name: str) -> None:
    build, matrices = NETS[name]
    model, x = seeded(build)(), randn(64, 6, 8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = dc.apply(model, dc.allocate(dc.measure(model, "edge-int8", target=TARGET, calibration=x)), calibration=x)
    recurrent = [layer for layer in small.model.layers() if layer.kind == "recurrent"]
    assert len(recurrent) == matrices and {layer.name for layer in recurrent} <= set(small.encodings)
    file = dc.export(small)
    assert file.plan.share_left_alone["weights"] == 0 and len(file.body) < 0.42 * file.float_bytes
    assert file.parity.float_error < 1e-5, "gates are in ONNX's order"
    with torch.no_grad():
        wanted = model(x).numpy()
    found = session_of(file.body).run(None, {"x": x.numpy()})[0]
    assert np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()) < 0.05
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the caller's weights stay"


def test_a_net_of_an_lstm_takes_less_than_three_tenths_of_its_float_file() -> None:
    file = dc.compress(seeded(Words)(), "edge-int8", target=TARGET, calibration=ids(64, 8))
    assert len(file.body) < 0.3 * file.float_bytes


def test_float_recipes_leave_recurrent_weights_as_they_are() -> None:
    x = randn(64, 6, 8)
    profile = dc.measure(seeded(lambda: Recurrent(nn.GRU))(), "sparse", target=TARGET, calibration=x)
    assert {option.choice.weight_bits for option in profile.table["g.ih_l0"]} == {32}
    assert {option.choice.sparsity for option in profile.table["g.ih_l0"]} == {0.0}


def test_few_bits_are_not_for_weights_whose_errors_return_at_every_step() -> None:
    profile = dc.measure(seeded(lambda: Recurrent(nn.LSTM))(), "edge-int4", target=TARGET, calibration=randn(64, 6, 8))
    assert {option.choice.weight_bits for option in profile.table["g.hh_l0"]} == {8}


def test_an_edit_of_a_recurrent_weight_is_an_edit_of_the_layer() -> None:
    model, x = seeded(lambda: Recurrent(nn.LSTM))(), randn(4, 6, 8)
    adapter = open_model(model, {"x": x})
    other = adapter.edited([dc.types.SetWeight("g.hh_l0", torch.zeros(256, 64))])
    assert not other.module.g.weight_hh_l0.any() and adapter.module.g.weight_hh_l0.any()
    assert not torch.equal(other.predict({"x": x})[0], adapter.predict({"x": x})[0])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_an_operator_that_the_runtime_lacks_is_refused_in_a_sentence() -> None:
    model, x = seeded(lambda: Recurrent(nn.LSTM, proj_size=16))(), randn(64, 6, 8)
    with pytest.raises(dc.Unsupported, match=r"can't run .*LSTM"):
        dc.compress(model, "edge-int8", target=TARGET, calibration=x)
