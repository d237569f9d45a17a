"""Networks with a spectrum and a logarithm at their front, where small values count for as much as large ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc


class LoudAndSoft(nn.Module):
    """A filter bank on waves `[n, 256]`, the logarithm of its power, and two convolutions."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.bands = nn.Conv1d(1, 16, 8, 4, bias=False)
        self.body = nn.Sequential(nn.Conv1d(16, 32, 3), nn.ReLU(), nn.Conv1d(32, 32, 3), nn.ReLU())
        self.head, self.floor = nn.Linear(32, 5), floor

    def forward(self, wave: Tensor) -> Tensor:
        return self.head(self.body(torch.log(self.bands(wave[:, None]).square() + self.floor)).mean(2))


def waves(decades: float) -> Tensor:
    """Noise whose loudness changes every four samples, within so many powers of ten."""
    torch.manual_seed(0)
    loudness = (10 ** (-decades * torch.rand(64, 64))).repeat_interleave(4, 1)
    return torch.randn(64, 256) * loudness


@pytest.mark.parametrize("target", ["onnxruntime-x86-avx2", "onnxruntime-arm64"])
def test_the_front_stays_float_where_8_bits_would_drown_what_is_soft(target: str) -> None:
    torch.manual_seed(0)
    file = dc.compress(LoudAndSoft(1e-6).eval(), "edge-int8", target=target, calibration=waves(2.0))
    (output,) = file.parity.outputs
    assert output.channel_error < 0.25, "38 % of the spread with all activations at 8 bits"
    assert any(note.startswith("the first activation stays float (up to ") for note in file.notes)
    on_integers, of = file.fused["Conv"]
    assert 0 < on_integers < of, "what follows the front is on integers"


def test_activations_are_integers_where_they_do_no_harm() -> None:
    torch.manual_seed(0)
    file = dc.compress(LoudAndSoft(1.0).eval(), "edge-int8", target="onnxruntime-arm64", calibration=waves(0.0))
    assert not any("stays float" in note for note in file.notes)
