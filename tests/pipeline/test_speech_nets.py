"""Speech networks of other people's kinds, compressed by shipped recipes as they are, run at lengths that they never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import dyncompress as dc
from benchmarks.speech_nets import Ecapa, SpeakerEncoder, Wav2Vec
from tests.running import session_of

TARGET = "onnxruntime-x86-vnni"


def _ready(net: nn.Module, *batches: torch.Tensor) -> nn.Module:
    """The network in eval mode, its BatchNorm statistics taken from these inputs."""
    with torch.no_grad():
        for batch in batches:
            net.train()(batch)
    return net.eval()


@pytest.mark.parametrize("recipe", ["edge-int8", pytest.param("edge-int4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["recurrent", "dilated", pytest.param("transformer", marks=pytest.mark.slow)])
def test_the_outputs_stay_within_a_few_per_cent_at_any_length(kind: str, recipe: str) -> None:
    torch.manual_seed(0)
    if kind == "transformer":
        net, data = _ready(Wav2Vec(32, 1)), [torch.randn(8, length) for length in (800, 1200)]
        other = torch.randn(3, 1000)
    else:
        data = [0.1 * torch.randn(16, length, 40).cumsum(1) for length in (30, 40)]
        net = SpeakerEncoder(48, 2).eval() if kind == "recurrent" else _ready(Ecapa(32), *data * 5)
        other = 0.1 * torch.randn(3, 50, 40).cumsum(1)
    file = dc.compress(net, recipe, target=TARGET, calibration=data)
    assert len(file.content) < 0.5 * file.float_bytes
    with torch.no_grad():
        expected = net(other).numpy()
    session = session_of(file.body)
    (found,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    limit = 0.02 if recipe == "edge-int8" else 0.08
    assert np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()) < limit
