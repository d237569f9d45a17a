"""A file that does not compute what torch computes is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.pipeline import onnx_export
from dyncompress.types import OutputParity, Parity
from tests.tiny import CALIBRATION, TARGET


class Baked(nn.Module):
    """Reads a number from its inputs in Python, which a tracing exporter turns into a constant."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = nn.Linear(int(np.prod(CALIBRATION.shape[1:])), 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)) * float(x.abs().max().numpy())


@pytest.mark.filterwarnings("ignore")
def test_a_graph_that_computes_something_different_is_refused() -> None:
    scales = np.linspace(0.1, 3, len(CALIBRATION), dtype=np.float32)[:, None, None, None]
    with pytest.raises((dc.Differs, dc.Unsupported)) as caught:
        dc.compress(Baked(), "edge-int8", target=TARGET, calibration=(CALIBRATION * scales).astype(np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [0.1, float("nan"), float("inf")])
def test_the_float_graph_has_a_tolerance(wrong: float) -> None:
    fine = Parity(float_error=1e-6, relative_error=0.01, agreement=1.0, n=8)
    assert onnx_export.faithful(fine) is fine
    with pytest.raises(dc.Differs, match=r"0\.001 is allowed"):
        onnx_export.faithful(Parity(wrong, 0.01, 1.0, 8))


def test_coarse_activations_are_reported() -> None:
    fine, far = OutputParity("y", 0.01, 1, 3, 0.02, 0.01), OutputParity("y", 0.4, 1, 3, 0.6, 0.5)
    assert onnx_export.coarse(Parity(0.0, 0.01, 1.0, 8, (fine,))) == []
    first, second = onnx_export.coarse(Parity(0.0, 0.4, 1.0, 8, (far,)))
    assert "output 'y' differs from the original model's by 40 % (RMS)" in first
    assert "channel 3 (axis 1) of output 'y' is off by 60 % of its spread, of which 50 % by integer activations" in second
