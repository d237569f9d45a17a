"""A zoo of small architectures: each is opened and observed, and its ONNX file computes what torch computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.zoo import ZOO, build
from dyncompress.models.torch.opening import open_model
from dyncompress.types import Bias, InputMoment, OutputFisher, OutputMoments, Spectrum, Weight

NEEDS = (Weight(), Bias(), Spectrum(), InputMoment(), OutputFisher(), OutputMoments())
# Share of the weights that may be left alone: recurrent ones, position embeddings.
SHARES = {"gru": 0.95, "swin": 0.02, "vit": 0.03, "audio_transformer": 0.02}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ZOO)
def test_the_adapter_opens(name: str) -> None:
    pytest.importorskip("transformers")
    runtime = pytest.importorskip("onnxruntime")
    module, inputs = build(name)
    model = open_model(module, inputs)
    layers = model.layers()
    share = sum(layer.weights for layer in layers if layer.left_alone) / sum(layer.weights for layer in layers)
    assert share <= SHARES.get(name, 0.0)
    observed = dict(model.observe(NEEDS, [inputs]))
    assert list(observed) == [layer.name for layer in layers]
    for layer in layers:
        if not layer.left_alone and layer.kind != "embedding":
            assert observed[layer.name][InputMoment()].shape == (layer.groups, layer.fan_in, layer.fan_in)
            assert bool(torch.isfinite(observed[layer.name][OutputFisher()]).all())
    content, places = model.to_onnx(inputs)
    assert all(layer.name in places for layer in layers if not layer.left_alone)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()}
    for found, known in zip(session.run(None, given), model.predict(inputs), strict=True):
        assert np.abs(found - known.numpy()).max() <= 1e-4 * float(known.abs().max())
