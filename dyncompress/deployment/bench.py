"""Time files against each other in interleaved rounds of one process, so that other load affects all of them equally."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dyncompress.deployment.session import Session, at_once, processor
from dyncompress.errors import InvalidRequest
from dyncompress.types import Speed, Target

SECONDS = 1.0  # how long `time_pair` measures, after a first run of each file
ROUNDS = 40  # at most, in `time_pair`


@dataclass(frozen=True)
class Timing:
    """The time of one run of a file over all examples.

    Attributes:
        minimum, p10, median, p90, p99: seconds, over the rounds.
        rounds: number of rounds.
        relative: median over the rounds of the ratio to the time of the first file.
    """

    minimum: float
    p10: float
    median: float
    p90: float
    p99: float
    rounds: int
    relative: float


def compare(
    files: Mapping[str, bytes], inputs: Mapping[str, np.ndarray], target: Target, *, threads: int = 1, rounds: int = 50
) -> dict[str, Timing]:
    """Time files against each other.

    Every round runs each file once and starts with another file than the round before. Ratios are computed within a round,
    where the load of the machine changes least.

    Args:
        files: name -> bytes of an ONNX file; the others are compared with the first one.
        inputs: by name, each `[n, ...]`.
        target: whose session options are used.
        threads: number of threads of a run.
        rounds: at least 3.

    Returns:
        Name -> Timing.

    Raises:
        InvalidRequest: there is no file, or fewer than 3 rounds.
        Unsupported: onnxruntime can't load a file.
    """
    if not files or rounds < 3:
        raise InvalidRequest(f"{len(files)} files in {rounds} rounds can't be compared; give at least one file and 3 rounds.")
    sessions = {name: Session(body, target, threads) for name, body in files.items()}
    names = list(sessions)
    size = at_once(inputs)
    for name in names:
        sessions[name].run(inputs, size)
    seconds = np.zeros((rounds, len(names)))
    for turn in range(rounds):
        for offset in range(len(names)):
            index = (turn + offset) % len(names)
            start = time.perf_counter()
            sessions[names[index]].run(inputs, size)
            seconds[turn, index] = time.perf_counter() - start
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    return {name: _timing(seconds[:, index], float(ratios[index])) for index, name in enumerate(names)}


def time_pair(before: bytes, after: bytes, inputs: Mapping[str, np.ndarray], target: Target) -> Speed:
    """Time two files against each other for about a second, on one thread.

    Args:
        before, after: the original's float32 file and the compressed one.
        inputs: of one run, by name, each `[n, ...]`.
        target: whose session options are used.

    Returns:
        The medians over as many rounds as fit into a second, at least 1 and at most 40.

    Raises:
        Unsupported: onnxruntime can't load a file.
    """
    sessions = [Session(body, target) for body in (before, after)]

    def once() -> list[float]:
        seconds = []
        for session in sessions:
            start = time.perf_counter()
            session.run(inputs, at_once(inputs))
            seconds.append(time.perf_counter() - start)
        return seconds

    pair = sum(once())
    rounds = int(np.clip(SECONDS / max(pair, 1e-9), 1, ROUNDS))
    seconds = np.array([once() for _ in range(rounds)])
    first, second = (float(value) for value in np.median(seconds, axis=0))
    ratio = float(np.median(seconds[:, 0] / seconds[:, 1]))
    return Speed(first, second, ratio, rounds, len(next(iter(inputs.values()))), 1, processor())


def _timing(seconds: np.ndarray, relative: float) -> Timing:
    low, middle, high, top = (float(x) for x in np.percentile(seconds, (10, 50, 90, 99)))
    return Timing(float(seconds.min()), low, middle, high, top, len(seconds), relative)
