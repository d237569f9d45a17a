"""AIMET's simulator, given the float file and its encodings, computes what the file computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from dyncompress.deployment.conversion import convert
from dyncompress.deployment.conversion.comparison import as_defined, difference, inputs_for, outputs
from tests.export.test_conversion import FILES

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def simulated() -> Callable[[bytes, dict], Any]:
    """AIMET's simulation of a float model with encodings; its session reads memory of the simulation."""
    quantsim = pytest.importorskip("aimet_onnx.quantsim", reason="needs AIMET: pip install aimet-onnx", exc_type=ImportError)

    def simulation(content: bytes, encodings: dict) -> Any:
        model = onnx.load_from_string(content)
        for index, node in enumerate(model.graph.node):
            node.name = node.name or f"node{index}"
        with quantsim._apply_constraints(False):  # one grid for both ends of an AveragePool, as Qualcomm's runtime wants it
            sim = quantsim.QuantizationSimModel(model, providers=["CPUExecutionProvider"])
        quantsim.load_encodings_to_sim(sim, encodings, strict=False)
        return sim

    return simulation


@pytest.mark.parametrize("name", FILES)
def test_aimet_computes_what_the_file_computes(name: str, simulated: Callable[[bytes, dict], Any]) -> None:
    content = FILES[name]()
    files = convert(content, "encodings").files
    original = as_defined(content)
    inputs = {key: 2 * value if value.dtype == np.float32 else value for key, value in inputs_for(original, None).items()}
    sim = simulated(files["model.onnx"], json.loads(files["encodings.json"]))
    assert difference(outputs(sim.session, inputs), outputs(original, inputs)) < 1e-5
