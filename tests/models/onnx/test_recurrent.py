"""Recurrent layers against onnxruntime, the loop over time against torch's own layers, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dyncompress.models.onnx.node import Node
from dyncompress.models.onnx.operators import recurrent
from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.test_convolutions import numbers

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
TIME, BATCH, INPUT, HIDDEN = 5, 3, 2, 4


def inputs_of(operator: str, directions: int, *chosen: str) -> list[np.ndarray | None]:
    gates = GATES[operator] * HIDDEN
    optional = {
        "B": numbers(directions, 2 * gates),
        "sequence_lens": np.array([5, 2, 3], np.int32),
        "initial_h": numbers(directions, BATCH, HIDDEN),
    }
    if operator == "LSTM":
        optional.update(initial_c=numbers(directions, BATCH, HIDDEN), P=numbers(directions, 3 * HIDDEN))
    needed = [numbers(TIME, BATCH, INPUT), numbers(directions, gates, INPUT), numbers(directions, gates, HIDDEN)]
    return needed + [value if name in chosen else None for name, value in optional.items()]


def outputs_of(operator: str) -> int:
    return 3 if operator == "LSTM" else 2


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("chosen", "attributes"),
    [
        ((), {}),
        (("B", "initial_h", "initial_c"), {}),
        (("B", "sequence_lens", "initial_h"), {}),
        (("B", "P"), {"clip": 0.5}),
        (("B", "P"), {"linear_before_reset": 1, "input_forget": 1}),
        (("B", "sequence_lens"), {"linear_before_reset": 1, "clip": 1.0}),
    ],
)
def test_as_onnxruntime(operator: str, direction: str, chosen: tuple[str, ...], attributes: dict[str, Any]) -> None:
    known = {"GRU": ("linear_before_reset", "clip"), "LSTM": ("input_forget", "clip"), "RNN": ("clip",)}[operator]
    attributes = {name: value for name, value in attributes.items() if name in known}
    directions = 2 if direction == "bidirectional" else 1
    given = {"hidden_size": HIDDEN, "direction": direction, **attributes}
    agrees(operator, 7, inputs_of(operator, directions, *chosen), outputs_of(operator), **given, tolerance=1e-4)


@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [
        *[("Relu", [], []), ("Tanh", [], []), ("Sigmoid", [], []), ("Softsign", [], []), ("Softplus", [], [])],
        *[("Affine", [0.7], [0.2]), ("LeakyRelu", [0.3], []), ("ThresholdedRelu", [0.4], []), ("ScaledTanh", [0.8], [0.6])],
        *[("HardSigmoid", [0.3], [0.4]), ("Elu", [0.6], []), ("LeakyRelu", [], []), ("HardSigmoid", [], []), ("Elu", [], [])],
    ],
)
@pytest.mark.parametrize("operator", GATES)
def test_activations(operator: str, name: str, alpha: list[float], beta: list[float]) -> None:
    own = {"RNN": [name], "GRU": ["Sigmoid", name], "LSTM": ["HardSigmoid", name, "Tanh"]}[operator]
    if operator == "LSTM" and (alpha or beta or name not in ("LeakyRelu", "HardSigmoid", "Elu")):
        alpha, beta = [0.25, *alpha], [0.45, *beta]
    numbers_of = {key: value for key, value in (("activation_alpha", alpha), ("activation_beta", beta)) if value}
    inputs = [None if x is None else x[:2] if x.shape[0] == TIME else x for x in inputs_of(operator, 1, "B")]
    agrees(operator, 14, inputs, outputs_of(operator), hidden_size=HIDDEN, activations=own, **numbers_of, tolerance=1e-3)


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_torch_computes_what_the_loop_does(operator: str, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directions = 2 if direction == "bidirectional" else 1
    given = [None if x is None else torch.from_numpy(x) for x in inputs_of(operator, directions, "B", "initial_h", "initial_c")]
    attributes = {"hidden_size": HIDDEN, "direction": direction}
    if operator == "GRU":
        attributes["linear_before_reset"] = 1
    calls, fused = [], recurrent._fused
    monkeypatch.setattr(recurrent, "_fused", lambda *arguments: calls.append(fused(*arguments)) or calls[-1])
    by_torch = run(operator, given, **attributes)
    assert len(calls) == directions and all(calls)
    monkeypatch.setattr(recurrent, "_fused", lambda *arguments: None)
    for own, other in zip(run(operator, given, **attributes), by_torch, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def run(operator: str, inputs: list[Any], **attributes: Any) -> tuple[Any, ...]:
    """The layer's outputs, where inputs may be absent."""
    node = Node("", operator, "", 22, attributes, ("y", "h", "c")[: outputs_of(operator)])
    return recurrent.FUNCTIONS[operator][7](node, *inputs)


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("chosen", [("B", "initial_h", "initial_c"), ("B", "sequence_lens", "initial_h")])
def test_layout(operator: str, chosen: tuple[str, ...]) -> None:
    given = [None if x is None else torch.from_numpy(x) for x in inputs_of(operator, 2, *chosen)]
    attributes = {"hidden_size": HIDDEN, "direction": "bidirectional"}
    y, *states = run(operator, given, **attributes)
    for place in (0, 5, 6):
        if place < len(given) and given[place] is not None:
            given[place] = given[place].transpose(0, 1)
    turned, *turned_states = run(operator, given, **attributes, layout=1)
    assert torch.equal(turned, y.permute(2, 0, 1, 3))
    assert all(torch.equal(own, state.transpose(0, 1)) for own, state in zip(turned_states, states, strict=True))


@pytest.mark.parametrize("operator", GATES)
def test_no_time_no_batch_and_half_floats(operator: str) -> None:
    gates = GATES[operator] * HIDDEN
    for time, batch in ((0, 3), (3, 0)):
        y, last = interpreted(
            operator, 14, [torch.zeros(time, batch, 2), torch.ones(1, gates, 2), torch.ones(1, gates, HIDDEN)], outputs=2
        )
        assert y.shape == (time, 1, batch, HIDDEN) and last.shape == (1, batch, HIDDEN)
    wide = [torch.from_numpy(x) for x in inputs_of(operator, 1, "B")[:4]]
    for dtype in (torch.float16, torch.bfloat16):
        (y,) = interpreted(operator, 22, [x.to(dtype) for x in wide])
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), interpreted(operator, 22, wide)[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("attributes", [{}, {"clip": 3.0}])
def test_gradients(operator: str, attributes: dict[str, Any]) -> None:
    inputs = [torch.from_numpy(x).requires_grad_() for x in inputs_of(operator, 1, "B")[:4]]
    interpreted(operator, 14, inputs, **attributes)[0].sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in inputs)
