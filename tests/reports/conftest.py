"""An exported file with plan, profile and certificate, written by hand: two layers are rounded, one is left alone."""

from __future__ import annotations

import math

import pytest

from dyncompress.types import (
    Certificate,
    Choice,
    Estimate,
    Layer,
    Line,
    OnnxFile,
    Option,
    Parity,
    Plan,
    Profile,
    Sizes,
    Target,
)

LAYERS = (
    Layer("stem", "conv2d", (8, 3, 3, 3), 13_824),
    Layer("body.<1>", "conv2d", (16, 8, 3, 3), 73_728),
    Layer("head", "linear", (10, 16), 160),
)


@pytest.fixture
def plan() -> Plan:
    return Plan(
        asked={"stem": Choice(weight_bits=8), "body.<1>": Choice(weight_bits=4, sparsity=0.5)},
        realised={"stem": Choice(weight_bits=8), "body.<1>": Choice(weight_bits=4, sparsity=0.5)},
        why={"stem": "few weights, much distortion", "body.<1>": "many weights & little distortion"},
        reasons={"head": "recipe 'r' leaves it alone"},
        cost={"bytes": 2_000.0, "macs": 87_712.0},
        distortion=0.0125,
        gap=0.02,
        recipe="r",
        target="t",
        digest="0" * 64,
        shapes={layer.name: layer.shape for layer in LAYERS},
        share_left_alone={"weights": 0.1063, "macs": 0.0018},
    )


@pytest.fixture
def profile() -> Profile:
    careful, bold = Option(Choice(weight_bits=8), 900.0, 1.0, 0.001), Option(Choice(weight_bits=4), 450.0, 1.0, 0.01)
    hill = {"stem": Estimate(2.5, 0.25, 72), "body.<1>": Estimate(4.5, math.nan, 9, valid=False, notes=("only 9 eigenvalues",))}
    return Profile(
        layers=LAYERS,
        estimates={"hill": hill},
        table={"stem": (careful, bold), "body.<1>": (careful, bold)},
        source={"stem": "fisher", "body.<1>": "fisher"},
        reasons={"head": "recipe 'r' leaves it alone"},
        float_bytes=9_000,
        fixed_bytes=1_000,
        macs=87_712,
        digest="0" * 64,
        recipe="r",
        target="t",
        notes=("calibration data look unscaled",),
    )


@pytest.fixture
def certificate() -> Certificate:
    return Certificate(
        statement="With probability 95 % the file errs at most 1.2 % more often than the original.",
        kind="statistical",
        lines=(Line("increase of zero_one risk", 0.0025, -0.004, 0.012, 0.05, "exact paired"),),
        delta=0.05,
        n=800,
        counts={"examples": 800, "worse": 4, "better": 2, "original_errors": 8, "file_errors": 10},
        assumptions=("the held-out examples are drawn like the ones in use",),
        valid_as="alone",
        selection={},
        environment={"onnxruntime": "1.32.0"},
        digests={"file": "1" * 64},
        context={},
        evidence={"original": "ff" * 100},
        kept=True,
        risk="zero_one",
        promise=0.02,
    )


@pytest.fixture
def file(plan: Plan, certificate: Certificate) -> OnnxFile:
    return OnnxFile(
        body=b"\x08" * 2_000,
        plan=plan,
        sizes=Sizes(2_000, 1_500, 1_800, 1_700, "int8"),
        float_bytes=9_000,
        parity=Parity(1e-7, 0.01, 0.998, 256),
        fused={"Conv": (1, 2)},
        macs=(87_712, 87_712),
        stages={"prune": 0.001, "weights": 0.004},
        target=Target("t", "A <test> target.", "schema"),
        notes=("runs on another processor",),
        certificate=certificate,
    )
