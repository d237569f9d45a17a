"""How long files take: interleaved rounds in one process, so that other load falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dyncompress.deployment.session import Session, processor
from dyncompress.errors import InvalidRequest
from dyncompress.types import Speed, Target

SECONDS = 1.0  # that `in_turn` takes, but for the first run of each file, which warms up
ROUNDS = 40


@dataclass(frozen=True)
class Timing:
    """Seconds of one run of all examples.

    Attributes:
        minimum, p10, median, p90, p99: over the rounds.
        rounds: how many.
        relative: median of the ratio to the first file, round by round.
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

    Every round runs each file once, starting with another one each time. Ratios are taken within a round, where load is
    most alike.

    Args:
        files: name -> bytes; the first is what the others are compared with.
        inputs: by name, each `[n, ...]`.
        target: session options.
        threads: of one run.
        rounds: at least 3.

    Returns:
        name -> Timing.

    Raises:
        InvalidRequest: no file, or too few rounds.
    """
    if not files or rounds < 3:
        raise InvalidRequest(f"{len(files)} files in {rounds} rounds can't be compared; give at least one file and 3 rounds.")
    sessions = {name: Session(body, target, threads) for name, body in files.items()}
    names = list(sessions)
    for name in names:
        sessions[name].run(inputs)
    seconds = np.zeros((rounds, len(names)))
    for turn in range(rounds):
        for offset in range(len(names)):
            index = (turn + offset) % len(names)
            start = time.perf_counter()
            sessions[names[index]].run(inputs)
            seconds[turn, index] = time.perf_counter() - start
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    return {name: _timing(seconds[:, index], float(ratios[index])) for index, name in enumerate(names)}


def in_turn(before: bytes, after: bytes, inputs: Mapping[str, np.ndarray], target: Target) -> Speed:
    """Time two files against each other for about a second, one thread each.

    Args:
        before, after: the original's float32 file and the shipped one.
        inputs: of one run, by name, each `[n, ...]`.
        target: session options.

    Returns:
        medians of as many rounds as a second holds, one at least and 40 at most.

    Raises:
        Unsupported: onnxruntime can't load a file.
    """
    sessions = [Session(body, target) for body in (before, after)]

    def once() -> list[float]:
        seconds = []
        for session in sessions:
            start = time.perf_counter()
            session.run(inputs)
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
