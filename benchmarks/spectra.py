"""The time for the tail exponents of a whole network, beside weightwatcher and AlphaPruning's method.

Every kernel position of a convolution is one matrix, as in both other tools. Weights are Student-t(3.5) with log-normal column
scales, in the shapes of ResNet-50 and of a six-layer MiniLM without its embedding. Each round runs every method once, in one
process; the figures are minima over rounds of wall and of processor time. Ours uses float64 and gives two exponents
(`esd_power_law`, `esd_mid`); the others give one. weightwatcher's total is compared with the sum of its two parts, timed inside
the same call.

"AlphaPruning" is our own re-implementation of the public code's `lib/esd_utils.py` (float32 singular values, squared; the
exponent from the median, from thresholds below 1.5 times the peak, or from all thresholds), and not that code.
Run: `python -m benchmarks.spectra [--threads 2] [--rounds 5]`, with weightwatcher installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """The shapes of ResNet-50's weights: 25.5 M weights, 230 matrices."""
    shapes: Shapes = [(64, 3, 7, 7)]
    width = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(planes, width, 1, 1), (planes, planes, 3, 3), (4 * planes, planes, 1, 1)]
            shapes += [(4 * planes, width, 1, 1)] if block == 0 else []
            width = 4 * planes
    return [*shapes, (1000, 2048)]


def minilm() -> Shapes:
    """The shapes of a six-layer MiniLM's weights without the embedding: 10.6 M weights, 36 matrices."""
    return 6 * [(384, 384), (384, 384), (384, 384), (384, 384), (1536, 384), (384, 1536)]


NETWORKS: dict[str, Callable[[], Shapes]] = {"minilm": minilm, "resnet50": resnet50}


def weights_of(shapes: Shapes, seed: int = 0) -> list[np.ndarray]:
    """Weights with Student-t(3.5) entries and log-normal column scales, float32."""
    generator = np.random.default_rng(seed)
    found = []
    for shape in shapes:
        scale = generator.lognormal(0.0, 0.5, (1, shape[1], *[1] * (len(shape) - 2)))
        found.append((0.02 * scale * generator.standard_t(3.5, shape)).astype(np.float32))
    return found


def ours(weights: list) -> dict[str, list[float]]:
    """Our exponents of every layer, from float64 Gram spectra."""
    from dyncompress import linalg
    from dyncompress.measures import EsdMid, EsdPowerLaw
    from dyncompress.types import Layer, Observation, Spectrum

    power, mid = [], []
    spectra = linalg.streamed_spectra((weight, "slices") for weight in weights)
    for weight, values in zip(weights, spectra, strict=True):
        layer = Layer("layer", "conv2d" if weight.ndim == 4 else "linear", tuple(weight.shape), weight.numel())
        observation = Observation(layer, {Spectrum("slices"): values})
        power.append(EsdPowerLaw()(observation).value)
        mid.append(EsdMid()(observation).value)
    return {"power_law": power, "mid": mid}


def alpha_pruning(weights: list, rule: str) -> list[float]:
    """AlphaPruning's exponents, re-implemented, by the rule `mid`, `peak` or `full`."""
    import torch

    found = []
    for weight in weights:
        matrix = weight.float()
        if matrix.ndim == 4:
            matrix = matrix.flatten(2).permute(2, 0, 1) * 0.5**0.5
        eigenvalues = torch.linalg.svdvals(matrix).square().flatten().sort().values
        found.append(_mid(eigenvalues) if rule == "mid" else _scan(eigenvalues, rule))
    return found


def _mid(eigenvalues) -> float:
    """The exponent above the median."""
    logs = eigenvalues.log()
    i, n = len(logs) // 2, len(logs) - len(logs) // 2
    return float(1 + n / (logs[i:].sum() - n * logs[i]))


def _scan(eigenvalues, rule: str) -> float:
    """The exponent above the threshold with the smallest distance; `peak` uses their limits, log10 against eigenvalues."""
    import torch

    logs = eigenvalues.log()
    lowest, highest = -np.inf, np.inf
    if rule == "peak":
        tens = eigenvalues.log10()
        counts = torch.histc(tens, 100, min=float(tens.min()), max=float(tens.max()))
        edges = torch.linspace(float(tens.min()), float(tens.max()), 101)
        peak = 10 ** float(edges[int(counts.argmax())])
        lowest, highest = np.log10(0.95 * peak), 1.5 * peak
    total = len(eigenvalues)
    alphas, distances = torch.zeros(total - 1), torch.ones(total - 1)
    for i, threshold in enumerate(eigenvalues[:-1]):
        if threshold < lowest:
            continue
        if threshold > highest:
            break
        n = float(total - i)
        alpha = 1 + n / (logs[i:].sum() - n * logs[i])
        alphas[i] = alpha
        if alpha > 1:
            distances[i] = (1 - (eigenvalues[i:] / threshold) ** (1 - alpha) - torch.arange(n) / n).abs().max()
    return float(alphas[int(distances.argmin())])


class WeightWatcher:
    """weightwatcher's `analyze` with its default arguments, and the seconds of its two parts in the last call."""

    def __init__(self, weights: list) -> None:
        """Build a module of these weights."""
        import torch

        layers = []
        for weight in weights:
            out, into, *kernel = weight.shape
            layers.append(torch.nn.Conv2d(into, out, kernel, bias=False) if kernel else torch.nn.Linear(into, out, bias=False))
            layers[-1].weight.data.copy_(weight)
        self.model = torch.nn.Sequential(*layers)
        self.parts: dict[str, float] = {}

    def __call__(self) -> list[float]:
        """The exponents of every layer."""
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            from weightwatcher import weightwatcher as package

            self.parts = {"svd_vals": 0.0, "WWFit": 0.0}
            with contextlib.ExitStack() as stack:
                for name in self.parts:
                    stack.enter_context(self._timed(package, name))
                details = package.WeightWatcher(model=self.model, log_level=logging.CRITICAL).analyze()
        return [float(alpha) for alpha in details["alpha"]]

    @contextlib.contextmanager
    def _timed(self, package, name: str) -> Iterator[None]:
        """Add up the seconds of one of the package's functions."""
        original = getattr(package, name)

        def timed(*args, **kwargs):
            begin = time.perf_counter()
            result = original(*args, **kwargs)
            self.parts[name] += time.perf_counter() - begin
            return result

        setattr(package, name, timed)
        try:
            yield
        finally:
            setattr(package, name, original)


def measured(shapes: Shapes, rounds: int) -> dict:
    """Minima over rounds, ratios to ours, weightwatcher's parts and the largest difference between the exponents."""
    import torch

    weights = [torch.from_numpy(weight) for weight in weights_of(shapes)]
    watcher = WeightWatcher(weights)
    methods: dict[str, Callable] = {
        "ours": lambda: ours(weights),
        "weightwatcher": watcher,
        "AlphaPruning mid, re-stated": lambda: alpha_pruning(weights, "mid"),
        "AlphaPruning peak, re-stated": lambda: alpha_pruning(weights, "peak"),
        "AlphaPruning full scan, re-stated": lambda: alpha_pruning(weights, "full"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    processor: dict[str, list[float]] = {name: [] for name in methods}
    parts, answers = [], {}
    for _ in range(rounds):
        for name, method in methods.items():
            begin, own = time.perf_counter(), time.process_time()
            answers[name] = method()
            seconds[name].append(time.perf_counter() - begin)
            processor[name].append(time.process_time() - own)
            if name == "weightwatcher":
                parts.append(sum(watcher.parts.values()) / seconds[name][-1])
            print(f"{name:34s} {seconds[name][-1]:7.3f} s, processor {processor[name][-1]:7.3f} s", flush=True)
    least, busy = ({name: min(taken) for name, taken in all_taken.items()} for all_taken in (seconds, processor))
    enough = np.array([min(shape[:2]) * int(np.prod(shape[2:])) >= 20 for shape in shapes])
    return {
        "matrices": sum(int(np.prod(shape[2:])) for shape in shapes),
        "weights": sum(int(np.prod(shape)) for shape in shapes),
        "seconds": {name: round(value, 4) for name, value in least.items()},
        "processor_seconds": {name: round(value, 4) for name, value in busy.items()},
        "all_seconds": {name: [round(value, 4) for value in taken] for name, taken in seconds.items()},
        "times_as_long_as_ours": {name: round(value / least["ours"], 2) for name, value in least.items() if name != "ours"},
        "times_as_much_processor_time": {name: round(value / busy["ours"], 2) for name, value in busy.items() if name != "ours"},
        "weightwatcher_parts_over_total": round(max(parts), 3),
        "largest_difference_to_weightwatcher": _apart(answers["ours"]["power_law"], answers["weightwatcher"], enough),
        "largest_difference_to_mid": _apart(answers["ours"]["mid"], answers["AlphaPruning mid, re-stated"], enough),
    }


def _apart(first: list[float], second: list[float], enough: np.ndarray) -> float:
    """The largest relative difference over layers with at least 20 eigenvalues (below, weightwatcher fits differently)."""
    a, b = np.array(first)[enough], np.array(second)[enough]
    return float(np.abs(a / b - 1).max())


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    args = parser.parse_args()
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    if any(
        os.environ.get(name) != value for name, value in wanted.items()
    ):  # libraries read these variables when they are loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.spectra", *sys.argv[1:]], os.environ | wanted)
    import torch

    path = RESULTS / "spectra.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in args.networks:
        row = measured(NETWORKS[name](), args.rounds)
        row |= {"rounds": args.rounds, "torch": torch.__version__, "numpy": np.__version__, "load": round(os.getloadavg()[0], 2)}
        known.setdefault(f"{args.threads} threads" if args.threads > 1 else "1 thread", {})[name] = row
        print(json.dumps({"network": name, **row}, indent=1))
        path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
