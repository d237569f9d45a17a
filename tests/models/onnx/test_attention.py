"""Attention with its options against onnxruntime, or against plain formulas where it differs from ONNX; gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from dyncompress.models.onnx.node import Node
from dyncompress.models.onnx.operators.attention import PREVIEW
from tests.models.onnx.against_runtime import agrees, interpreted
from tests.models.onnx.test_convolutions import numbers

MASK = np.random.default_rng(0).random((2, 1, 3, 5)) < 0.7
BATCH, HEADS, SHARED, QUERIES, KEYS, SIZE = 2, 4, 2, 3, 5, 6


def packed(flat: bool) -> tuple[list[np.ndarray], dict[str, int]]:
    """Queries, keys and values with heads as an axis, or flat with attributes that count them."""
    if flat:
        shapes = [(BATCH, QUERIES, HEADS * SIZE), (BATCH, KEYS, SHARED * SIZE), (BATCH, KEYS, SHARED * 4)]
        return [numbers(*shape) for shape in shapes], {"q_num_heads": HEADS, "kv_num_heads": SHARED}
    shapes = [(BATCH, HEADS, QUERIES, SIZE), (BATCH, SHARED, KEYS, SIZE), (BATCH, SHARED, KEYS, 4)]
    return [numbers(*shape) for shape in shapes], {}


@pytest.mark.parametrize("version", [23, 24])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("mask", [None, MASK, numbers(2, 4, 3, 5), numbers(3, 5), MASK[:1]])
@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"softcap": 1.5, "scale": 0.3}])
def test_masks(version: int, flat: bool, mask: np.ndarray | None, attributes: dict[str, Any]) -> None:
    inputs, heads = packed(flat)
    agrees("Attention", version, [*inputs, mask], **heads, **attributes, tolerance=1e-4)


@pytest.mark.parametrize("mode", [0, 1, 3])
@pytest.mark.parametrize("flat", [False, True])
def test_scores_and_past(mode: int, flat: bool) -> None:
    inputs, heads = packed(flat)
    past = [numbers(BATCH, SHARED, 3, SIZE), numbers(BATCH, SHARED, 3, 4)]
    options = {"qk_matmul_output_mode": mode, "softcap": 1.5, "is_causal": 1}
    agrees("Attention", 23, [*inputs, None, *past], outputs=4, **heads, **options, tolerance=1e-4)
    agrees("Attention", 24, [*inputs, numbers(3, 8), *past], outputs=4, **heads, **options, tolerance=1e-4)


@pytest.mark.parametrize("causal", [0, 1])
def test_padded_keys(causal: int) -> None:
    inputs, _ = packed(False)
    agrees("Attention", 24, [*inputs, None, None, None, np.array([3, 5])], is_causal=causal, tolerance=1e-4)


def test_scores_with_the_mask_and_a_window() -> None:
    # onnxruntime shows the least number instead of -inf, and doesn't have windows.
    x = torch.zeros(1, 1, 4, 2)
    options = {"qk_matmul_output_mode": 2, "left_window_size": 1, "right_window_size": 0}
    scores = interpreted("Attention", 25, [x, x, x], outputs=4, **options)[3]
    i, j = torch.arange(4)[:, None], torch.arange(4)
    assert torch.equal(scores[0, 0], torch.where((j <= i) & (j >= i - 1), 0.0, -math.inf))


def test_a_query_that_may_look_nowhere() -> None:
    q = torch.from_numpy(numbers(1, 1, 2, 3)).requires_grad_()
    mask = torch.tensor([[False, False], [True, False]])
    y, *_, weights = interpreted("Attention", 24, [q, q, q, mask], outputs=4, qk_matmul_output_mode=3)
    assert y[0, 0, 0].abs().sum() == 0 and weights.tolist() == [[[[0, 0], [1, 0]]]]
    y.sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()


def test_precision_of_the_softmax() -> None:
    q = torch.from_numpy(numbers(1, 1, 3, 4)).half()
    y, _, _, weights = interpreted("Attention", 24, [q, q, q], outputs=4, softmax_precision=1, qk_matmul_output_mode=3)
    assert y.dtype == weights.dtype == torch.float16
    wanted = functional.scaled_dot_product_attention(*[q.double()] * 3)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-2, atol=1e-2)
    empty = torch.zeros(1, 1, 0, 4)
    assert interpreted("Attention", 24, [torch.ones(1, 1, 3, 4), empty, empty])[0].abs().sum() == 0


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("flat", [False, True])
def test_turned_embeddings(interleaved: int, size: int, flat: bool) -> None:
    x = numbers(BATCH, QUERIES, 2 * SIZE) if flat else numbers(BATCH, 2, QUERIES, SIZE)
    options = {"interleaved": interleaved, "rotary_embedding_dim": size, "num_heads": 2}
    half = (size or SIZE) // 2
    places = np.array([[0, 2, 4], [6, 1, 3]])
    agrees("RotaryEmbedding", 23, [x, numbers(7, half), numbers(7, half) + 1, places], **options, tolerance=1e-5)
    caches = [numbers(BATCH, QUERIES, half), numbers(BATCH, QUERIES, half) + 1]
    agrees("RotaryEmbedding", 23, [x, *caches], **options, tolerance=1e-5)


def test_linear_attention_is_a_sum_over_the_past() -> None:
    q, k, v = (torch.from_numpy(numbers(1, 4, size)) for size in (6, 3, 2))
    options = {"q_num_heads": 2, "kv_num_heads": 1, "scale": 0.5, "update_rule": "linear"}
    y, state = interpreted("LinearAttention", 27, [q, k, v], outputs=2, **options)
    scores = (q.reshape(4, 2, 3).transpose(0, 1) @ k[0].T).tril() * 0.5
    torch.testing.assert_close(y, (scores @ v[0]).transpose(0, 1).reshape(1, 4, 4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state[0, 0], k[0].T @ v[0], rtol=1e-5, atol=1e-5)


def test_flexible_attention_without_subgraphs() -> None:
    q, k, v = (torch.from_numpy(array) for array in packed(False)[0])
    y = PREVIEW["FlexAttention"][1](Node("", "FlexAttention", "ai.onnx.preview", 1, {}, ("y",)), q, k, v)
    torch.testing.assert_close(y, functional.scaled_dot_product_attention(q, k, v, enable_gqa=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "version", "shapes", "attributes"),
    [
        ("Attention", 24, [(1, 2, 3, 4)] * 3, {"is_causal": 1, "softcap": 2.0}),
        ("RotaryEmbedding", 23, [(1, 2, 3, 4), (1, 3, 2), (1, 3, 2)], {}),
        (
            "LinearAttention",
            27,
            [(1, 3, 4), (1, 3, 4), (1, 3, 4)],
            {"update_rule": "linear", "q_num_heads": 2, "kv_num_heads": 2},
        ),
    ],
)
def test_gradients(operator: str, version: int, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    inputs = [torch.from_numpy(numbers(*shape)).requires_grad_() for shape in shapes]
    interpreted(operator, version, inputs, **attributes)[0].square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in inputs)
