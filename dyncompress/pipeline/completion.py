"""Values that a finished file carries beside its bytes: the profile, the times of a run, the original's float file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dyncompress import deployment
from dyncompress.errors import Unsupported
from dyncompress.pipeline.capabilities import float_file
from dyncompress.pipeline.observed_model import as_numpy, first_examples
from dyncompress.pipeline.task import Task
from dyncompress.types import Batch, Candidate, Model, OnnxFile, Plan, Profile, Speed


def complete(file: OnnxFile, task: Task, made: Plan | Profile, *, keep_float: bool) -> OnnxFile:
    """The file with its profile, speed and float file, which no decision depends on.

    Args:
        file: the finished file.
        task: with the model that came in.
        made: the plan or profile that the file was made from; a profile stays with the file.
        keep_float: whether the original's float32 file stays with it too: as many bytes as the model has.
    """
    example = first_examples(task.batches, 2)[0]
    float_body = float_file(task.model, as_numpy(example)) if keep_float else b""
    with task.progress.phase("time a run before and after"):
        speed = _speed(file, task.model, example, float_body)
    profile = made if isinstance(made, Profile) else None
    return replace(file, profile=profile, speed=speed, float_body=float_body)


def with_speed(file: OnnxFile, original: Model) -> OnnxFile:
    """The file with the time of a run before and after; a file that has it stays unchanged."""
    return file if file.speed is not None else replace(file, speed=_speed(file, original, original.example))


def _speed(file: OnnxFile, model: Model, example: Batch, float_body: bytes = b"") -> Speed:
    """The time of a run on one example; the reason, where either file doesn't run here."""
    reason = deployment.cannot_run_here(file.target)
    if reason:
        return Speed(reason=reason)
    one = {name: value[:1] for name, value in as_numpy(example).items()}
    try:
        return deployment.time_pair(float_body or float_file(model, as_numpy(example)), file.body, one, file.target)
    except Unsupported as error:
        return Speed(reason=str(error).rstrip("."))


def candidate(file: OnnxFile) -> Candidate:
    """The size, distortion and divergence of a built file, without its bytes."""
    return Candidate(len(file.shipped), file.plan.distortion, file.parity.divergence)


def with_candidates(file: OnnxFile, made: Iterable[Candidate]) -> OnnxFile:
    """The file with all candidates that were built before it, without duplicates; the file is the chosen one."""
    chosen = candidate(file)
    return replace(file, candidates=tuple(replace(one, chosen=one == chosen) for one in dict.fromkeys([*made, chosen])))
