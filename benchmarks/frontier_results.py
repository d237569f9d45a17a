"""The results file of one network. Every finished row is written immediately, so that a run can be interrupted and continued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


def path_of(net: str, folder: Path = RESULTS) -> Path:
    """The results file of a network."""
    return folder / f"frontier_{net}.json"


def read(net: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The results of a network; empty tables if there are none yet."""
    path = path_of(net, folder)
    empty = {"net": net, "float": {}, "rows": {}, "timings": {}}
    return {**empty, **json.loads(path.read_text())} if path.exists() else empty


def write(found: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Write the results, all or nothing, with rows in the order of their names."""
    path = path_of(found["net"], folder)
    ordered = {**found, "rows": dict(sorted(found["rows"].items()))}
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(ordered, indent=1, default=float) + "\n")
    temporary.replace(path)


def put(net: str, key: str, entry: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Add one finished row. The file is read again first, so that rows of another process are kept."""
    found = read(net, folder)
    found["rows"][key] = dict(entry)
    write(found, folder)


def key_of(row: str, seed: int) -> str:
    """The key of a row's entry for one seed."""
    return f"{row} @ {seed}"


@dataclass(frozen=True)
class Summary:
    """One row, summarised over its seeds.

    Attributes:
        name: name of the row.
        seeds: the finished seeds.
        drop: mean over seeds, in points; `drop_best` and `drop_worst` are the range.
        drop_high: upper end of the worst seed's paired 95 % interval.
        accuracy: mean over seeds, in per cent; `accuracy_worst` is that of the worst seed.
        bytes: mean size of the ONNX file; `container` is that of the container.
        file_ratio, container_ratio, coded_payload_ratio, macs_ratio: original over compressed, for the worst seed.
        macs: mean multiply-accumulates.
        seconds: mean wall time; `cpu_seconds` is the mean processor time.
        phases: part of the call -> mean seconds.
        milliseconds: batch size -> median; `faster`: batch size -> speed-up; empty if not timed.
    """

    name: str
    seeds: tuple[int, ...]
    drop: float
    drop_best: float
    drop_worst: float
    drop_high: float
    accuracy: float
    accuracy_worst: float
    bytes: float
    container: float
    file_ratio: float
    container_ratio: float
    coded_payload_ratio: float
    macs_ratio: float
    macs: float
    seconds: float
    cpu_seconds: float
    phases: Mapping[str, float]
    milliseconds: Mapping[int, float]
    faster: Mapping[int, float]


def summary(name: str, seeds: Sequence[int], found: Mapping[str, Any]) -> Summary | None:
    """The summary of a row over its finished seeds; None if there are none."""
    finished = {seed: found["rows"][key_of(name, seed)] for seed in seeds if key_of(name, seed) in found["rows"]}
    entries = list(finished.values())
    if not entries:
        return None

    def mean(field: str) -> float:
        return float(np.mean([entry[field] for entry in entries]))

    worst = max(entries, key=lambda entry: entry["drop"])
    names = {name, *(key_of(name, seed) for seed in seeds)}
    runs = {batch: [times[n] for n in names & set(times)] for batch, times in found["timings"].items() if batch.isdigit()}
    timed = {batch: max(of, key=lambda run: run["median"]) for batch, of in runs.items() if of}  # times of the slowest seed
    return Summary(
        name=name,
        seeds=tuple(finished),
        drop=mean("drop"),
        drop_best=min(entry["drop"] for entry in entries),
        drop_worst=worst["drop"],
        drop_high=worst["drop_high"],
        accuracy=mean("accuracy"),
        accuracy_worst=worst["accuracy"],
        bytes=mean("bytes"),
        container=mean("container"),
        file_ratio=min(entry["file_ratio"] for entry in entries),
        container_ratio=min(entry["container_ratio"] for entry in entries),
        coded_payload_ratio=min(entry["coded_payload_ratio"] for entry in entries),
        macs_ratio=min(entry["macs_ratio"] for entry in entries),
        macs=mean("macs"),
        seconds=mean("seconds"),
        cpu_seconds=mean("cpu_seconds"),
        phases={name: float(np.mean([e["phases"].get(name, 0.0) for e in entries])) for name in entries[0]["phases"]},
        milliseconds={int(batch): 1e3 * times["median"] for batch, times in timed.items()},
        faster={int(batch): 1 / times["relative"] for batch, times in timed.items()},
    )
