"""Other tools as rows of the frontier (torch-pruning, onnxruntime's static quantizer, NNCF), on equal weights and images.

Each tool is used as its documentation shows, without fine-tuning and without labels. NNCF runs in a separate environment: set
`FRONTIER_NNCF_PYTHON` to an interpreter that has nncf and onnx (`python -m venv e && e/bin/pip install nncf onnx onnxruntime`).
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.cifar_resnet import CifarResNet
from benchmarks.frontier_data import Case, Made, NotHereError, float_macs
from benchmarks.judging import float_onnx
from dyncompress.models.torch.opening import open_model

NNCF_PYTHON = "FRONTIER_NNCF_PYTHON"
STEPS = 400  # as in torch-pruning's own benchmark: small steps towards no channels, which stop at the MAC ratio
GRADIENTS = 100  # number of steps after which Taylor importance gets new gradients
BATCH = 128
IMPORTANCES = {"magnitude": tp.importance.GroupMagnitudeImportance, "taylor": tp.importance.GroupTaylorImportance}


# ---------------------------------------------------------------- torch-pruning
@dataclass(frozen=True)
class TorchPruning:
    """torch-pruning's `BasePruner`, stopped at a MAC ratio, with or without BatchNorm statistics of the calibration images.

    Only channels inside the blocks may be removed, which gives the tool its best result here. Shortcuts that pad by a constant do
    not show it which channels meet: if it may also prune the residual stream, ResNet-20 at 1.5x (global magnitude, re-estimated)
    classifies 40 % of 1 024 training images correctly instead of 72 %.

    Attributes:
        importance: `magnitude` or `taylor`; the loss of Taylor importance uses the network's own predictions as labels.
        ranked_globally: whether channels are ranked over all layers, or within each layer.
        macs_ratio: smallest ratio of original to pruned MACs.
        reestimated: whether BatchNorm's running statistics are estimated again on the calibration images.
    """

    importance: str
    ranked_globally: bool
    macs_ratio: float
    reestimated: bool

    def __call__(self, case: Case) -> Made:
        """Prune the network, and export it."""
        seed = case.seed if self.importance == "taylor" else 0  # magnitudes do not depend on images
        like = Case(case.net, seed, case.keep)
        pruned, wall, cpu = pruned_network(like, self.importance, self.ranked_globally, self.macs_ratio)
        module, phases = copy.deepcopy(pruned), {"prune": wall}
        if self.reestimated:
            began, began_cpu = time.perf_counter(), time.process_time()
            reestimate(module, torch.from_numpy(case.images))
            phases["re-estimate"] = time.perf_counter() - began
            cpu += time.process_time() - began_cpu
        macs = open_model(module, {"x": torch.zeros(2, 3, 32, 32)}).macs
        return Made(float_onnx(module, case.images), macs, sum(phases.values()), cpu, phases)


@lru_cache(maxsize=8)
def pruned_network(case: Case, importance: str, ranked_globally: bool, macs_ratio: float) -> tuple[nn.Module, float, float]:
    """The pruned network, the wall seconds and the processor seconds."""
    module = case.module()
    images = torch.from_numpy(case.images) if importance == "taylor" else None
    wall, cpu = time.perf_counter(), time.process_time()
    prune(module, IMPORTANCES[importance](), ranked_globally, macs_ratio, images)
    return module, time.perf_counter() - wall, time.process_time() - cpu


def prune(
    module: CifarResNet, importance: tp.importance.Importance, ranked_globally: bool, macs_ratio: float, images: Tensor | None
) -> None:
    """Prune in place until the MACs have fallen by `macs_ratio`; `images` give the gradients for Taylor importance."""
    example = torch.zeros(1, 3, 32, 32)
    blocks = [block for layer in (module.layer1, module.layer2, module.layer3) for block in layer]
    pruner = tp.pruner.BasePruner(
        module,
        example,
        importance=importance,
        global_pruning=ranked_globally,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[module.conv1, module.linear, *(block.conv2 for block in blocks)],
    )
    dense = tp.utils.count_ops_and_params(module, example)[0]
    for step in range(STEPS):
        if images is not None and step % GRADIENTS == 0:
            gradients(module, images)
        pruner.step()
        if dense >= macs_ratio * tp.utils.count_ops_and_params(module, example)[0]:
            break
    module.zero_grad(set_to_none=True)


def gradients(module: nn.Module, images: Tensor) -> None:
    """Set `.grad` to the gradients of the cross-entropy with the network's own predictions, over all images."""
    module.zero_grad(set_to_none=True)
    for batch in images.split(BATCH):
        scores = module(batch)
        nn.functional.cross_entropy(scores, scores.detach().argmax(1), reduction="sum").div(len(images)).backward()


def reestimate(module: nn.Module, images: Tensor) -> None:
    """Replace the running statistics of every BatchNorm by the average over batches of `images`."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None
    module.train()
    with torch.no_grad():
        for batch in images.split(BATCH):
            module(batch)
    module.eval()


# ---------------------------------------------------------------- static quantizers of ONNX files
@dataclass(frozen=True)
class OrtStatic:
    """`onnxruntime.quantization.quantize_static`: QDQ, uint8 activations from their extremes, int8 weights.

    Attributes:
        per_channel: whether each channel has a scale, or each tensor.
    """

    per_channel: bool

    def __call__(self, case: Case) -> Made:
        """Pre-process the file as the documentation asks, and quantize it."""
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        wall, cpu = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            first, prepared, last = (Path(folder) / f"{name}.onnx" for name in ("float", "prepared", "int8"))
            first.write_bytes(case.float_file)
            quant_pre_process(str(first), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(last),
                reader(case.images),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=self.per_channel,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
            content = last.read_bytes()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Made(content, float_macs(case.net), wall, cpu, {"quantize": wall})


def reader(images: np.ndarray) -> object:
    """A reader of the images in batches, as onnxruntime's quantizer needs it."""
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter({"x": images[i : i + 64]} for i in range(0, len(images), 64))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    return Batches()


@dataclass(frozen=True)
class Nncf:
    """`nncf.quantize` of the float32 ONNX file.

    Attributes:
        preset: `performance` (the default of NNCF) or `mixed`.
        accurate: whether to use accurate instead of fast bias correction.
    """

    preset: str = "performance"
    accurate: bool = False

    def __call__(self, case: Case) -> Made:
        """Run `nncf_peer.py` in the separate environment.

        Raises:
            NotHereError: there is no such environment, or NNCF failed in it.
        """
        python = os.environ.get(NNCF_PYTHON, "")
        if not python:
            raise NotHereError(f"set {NNCF_PYTHON} to the interpreter of an environment with nncf, onnx and onnxruntime")
        with tempfile.TemporaryDirectory() as folder:
            first, images, last = (Path(folder) / name for name in ("float.onnx", "images.npy", "int8.onnx"))
            first.write_bytes(case.float_file)
            np.save(images, case.images)
            script = Path(__file__).with_name("nncf_peer.py")
            words = [python, str(script), str(first), str(images), str(last), "--preset", self.preset]
            done = subprocess.run(words + ["--accurate"] * self.accurate, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotHereError(f"nncf failed: {(done.stderr.strip().splitlines() or ['without a message'])[-1]}")
            found = json.loads(done.stdout.splitlines()[-1])
            content = last.read_bytes()
        seconds, cpu = found["seconds"], found["cpu_seconds"]
        more = {"version": found["version"]}
        return Made(content, float_macs(case.net), seconds, cpu, {"quantize": seconds}, more=more)
