"""Run one row on one network with one calibration seed, store and evaluate its file, and time all stored files together."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

import dyncompress as dc
from benchmarks.frontier_data import Case, Made, float_file, float_macs, float_scores, sha256, test_images
from benchmarks.frontier_ours import Ours
from benchmarks.frontier_results import RESULTS, key_of, put, read, write
from benchmarks.frontier_rows import Row
from benchmarks.judging import TARGET, judged, outputs
from dyncompress import deployment
from dyncompress.coding import pack
from dyncompress.coding.container import _DIGEST, _WHOLE, MAGIC
from dyncompress.coding.skeleton import Source

ROUNDS = {1: 300, 16: 100}
PACKAGE = Path(dc.__file__).parent


@cache
def sources() -> str:
    """Digest of the library's code. Rows of different code do not belong in one table."""
    return sha256(b"\n".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))))[:12]


def fingerprint(row: Row, net: str) -> str:
    """Digest of the settings of a row: the recipe's text, or the fields of a peer's dataclass."""
    return row.make.fingerprint(net) if isinstance(row.make, Ours) else sha256(repr(row.make).encode())[:12]


@cache
def original(net: str) -> dict[str, Any]:
    """The float32 file: bytes of the file, of its container and of its payload, MACs, and accuracy on the test images."""
    right = float_scores(net).argmax(1) == test_images()[1]
    first = float_file(net)
    sizes = {"bytes": len(first), "container": len(pack(first)), "payload": deployment.sizes(first, {}).payload}
    return {**sizes, "macs": float_macs(net), "accuracy": 100 * float(right.mean())}


def kept_at(keep: Path, net: str, row: str, seed: int) -> Path:
    """The path of the stored ONNX file of a row."""
    return keep / net / f"{row} @ {seed}.onnx"


def entry(row: Row, case: Case) -> dict[str, Any]:
    """Run a row, store its file, and evaluate it.

    Raises:
        NotHereError: the row cannot be computed on this machine.
        DyncompressError: the recipe was refused.
    """
    mark = fingerprint(row, case.net)
    made = row.make(case)
    path = kept_at(case.keep, case.net, row.name, case.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.content)
    found = {"row": row.name, "seed": case.seed, "fingerprint": mark}
    if isinstance(row.make, Ours):
        found["sources"] = sources()
    measured = sizes(made.content, original(case.net))
    return {**found, **measured, **macs(made, case.net), **verdict(made, case.net), **cost(made)}


def sizes(content: bytes, first: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes of an ONNX file and of its container, certificate included, and the reduction factors relative to the original.

    The payload is the bytes of weights, scales and biases: as the file stores them, and as the container codes them (which
    includes the activation grids).
    """
    packed, payload = pack(content), deployment.sizes(content, {}).payload
    coded = coded_payload(packed)
    return {
        "bytes": len(content),
        "zlib": len(zlib.compress(content, 9)),
        "container": len(packed),
        "payload": payload,
        "coded_payload": coded,
        "file_ratio": first["bytes"] / len(content),
        "container_ratio": first["bytes"] / len(packed),
        "payload_ratio": first["payload"] / payload,
        "coded_payload_ratio": first["payload"] / coded,
    }


def coded_payload(packed: bytes) -> int:
    """Bytes of a container without its header and its graph; all bytes if the container does not separate graph and data."""
    source = Source(packed)
    source.take(len(MAGIC) + 1 + _DIGEST)
    source.number()
    method, _ = source.take(2)
    if method & _WHOLE:
        return len(packed)
    source.number()
    source.block()
    return len(packed) - source.at


def remeasured(net: str, keep: Path, folder: Path = RESULTS) -> list[str]:
    """Measure the bytes of all stored files again after the container has changed; returns the entries without their file."""
    missing = []
    for key, found in read(net, folder)["rows"].items():
        path = kept_at(keep, net, found["row"], found["seed"])
        content = path.read_bytes() if path.exists() else b""
        if sha256(content) == found["sha256"]:
            put(net, key, {**found, **sizes(content, original(net))}, folder)
        else:
            missing.append(key)
    return missing


def macs(made: Made, net: str) -> dict[str, Any]:
    """Multiply-accumulates for one image, and the reduction factor."""
    return {"macs": made.macs, "macs_ratio": original(net)["macs"] / made.macs}


def verdict(made: Made, net: str) -> dict[str, Any]:
    """The accuracy on all test images under onnxruntime, and the drop with its paired 95 % interval."""
    x, y = test_images()
    return judged(outputs(made.content, x), float_scores(net), y)


def cost(made: Made) -> dict[str, Any]:
    """Seconds of the call, the load of the machine, the digest of the file, and the further values of the tool."""
    return {
        "seconds": made.seconds,
        "cpu_seconds": made.cpu_seconds,
        "phases": made.phases,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "sha256": sha256(made.content),
        **(made.more or {}),
    }


def timed(net: str, rows: Sequence[Row], seeds: Sequence[int], keep: Path, folder: Path = RESULTS) -> dict[str, Any]:
    """Time the stored files of all rows and seeds against the float32 file; every round runs each file once.

    Returns:
        batch -> row and seed -> Timing as a dict; `environment`; `missing`: entries whose file is not the one that was evaluated.
    """
    found = read(net, folder)
    files, missing = {"float32": float_file(net)}, []
    made = [(key_of(row.name, seed), kept_at(keep, net, row.name, seed)) for row in rows for seed in row.seeds if seed in seeds]
    for key, path in made:
        if key not in found["rows"]:
            continue
        content = path.read_bytes() if path.exists() else b""
        if sha256(content) == found["rows"][key]["sha256"]:
            files[key] = content
        else:
            missing.append(key)
    x, target = test_images()[0], dc.load_target(TARGET)
    times: dict[str, Any] = {"environment": deployment.environment(), "load": os.getloadavg()[0], "missing": missing}
    for batch, rounds in ROUNDS.items():
        compared = deployment.compare(files, {"x": x[:batch]}, target, rounds=rounds)
        times[str(batch)] = {name: asdict(timing) for name, timing in compared.items()}
    found["timings"] = times
    write(found, folder)
    return times
