"""Call the verbs with what the arguments name: models, data and plans are opened and checked, and saved profiles reused."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from dyncompress import __version__
from dyncompress.certificates.promise import Promise
from dyncompress.cli.early_checks import NO_DATA
from dyncompress.cli.option_values import free_axes, settings
from dyncompress.cli.run_table import read_runs
from dyncompress.cli.sources import load_data, load_model
from dyncompress.deployment import Session
from dyncompress.deployment.bench import Timing, compare
from dyncompress.errors import InvalidRequest
from dyncompress.models.data import as_batches, as_held_out, as_labelled, digests
from dyncompress.models.signature import resolve_inputs
from dyncompress.models.torch.sgd_probe import probe
from dyncompress.pipeline import task
from dyncompress.pipeline.certification import refuse_too_few, without_seen
from dyncompress.pipeline.selection import Ranking, rank
from dyncompress.pipeline.task import InputData, Task, first_rows, open_task
from dyncompress.pipeline.verbs import compress, measure
from dyncompress.recipe.plan_file import read_plan
from dyncompress.recipe.profile_file import profile_from_json, profile_to_json
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.toml_files import load_target, recipe_for, refuse_mismatch, target_for
from dyncompress.recording.training_states import load_training_state
from dyncompress.reports.output_files import PROFILE
from dyncompress.types import Batch, Budget, HeldOut, OnnxFile, Plan, Profile, Target, TrainingState, Trajectory
from dyncompress.types.progress import Progress
from dyncompress.types.representation import whole_text


@dataclass(frozen=True)
class Request:
    """The arguments of `compress` and `measure`, opened and checked.

    Attributes:
        model: opened once for all verbs, so that they share what is observed and exported.
        recipe, target: the values.
        batches: calibration batches, or None.
        held_out: held-out examples, or None.
        trajectory: path of what the training left behind, or None; the model is open on it.
        batch_size: of that training, as the user knows it; None: not given.
    """

    model: Task
    recipe: Recipe
    target: Target
    batches: Sequence[Batch] | None
    held_out: HeldOut | None
    trajectory: Path | None
    batch_size: int | None

    def key(self) -> str:
        """A digest of all that a profile depends on, the library's version included; budget, allocator and certificate aren't."""
        zeros = None if self.recipe.budget.sparsity is None else 0.5  # whether it is given decides which choices are tried
        free = replace(self.recipe, budget=Budget(sparsity=zeros), path=(), allocator=None, certificate=None)  # type: ignore[arg-type]
        parts = [
            __version__,
            self.model.model.state_digest,
            whole_text(free),
            whole_text(self.target),
            repr(self.model.model.free),
        ]
        parts += digests(self.batches or [])
        if self.trajectory is not None:
            inside = sorted(file for file in self.trajectory.rglob("*") if file.is_file())
            parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in inside or [self.trajectory]]
            parts.append(str(self.batch_size))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def compress_model(args: argparse.Namespace, progress: Progress) -> tuple[OnnxFile, str | None]:
    """`dyncompress compress`: the file, and the text of the profile that it was made from (None if a plan was given)."""
    plan = None if args.plan is None else read_plan(args.plan)
    request = open_request(args, args.held_out, plan)
    profile, text = (None, None) if plan is not None else reuse_or_measure(request, args.out, progress)
    file = compress(
        request.model,
        request.recipe,
        target=request.target,
        calibration=request.batches,
        held_out=request.held_out,
        plan=plan or profile,
        keep_float=args.keep_float,
        progress=progress,
    )
    return file, text


def measure_model(args: argparse.Namespace, progress: Progress) -> tuple[Profile, str]:
    """`dyncompress measure`: the profile and its text."""
    return reuse_or_measure(open_request(args, None), args.out, progress)


def record_probe(args: argparse.Namespace, progress: Progress) -> Trajectory:
    """`dyncompress probe`: the trajectory of a short training run that starts from the final weights."""
    data, labels, model = load_data(args.calibration, "calibration data"), None, load_model(args.model)
    if args.labels:
        names, data = resolve_inputs(model, data)
        data = as_labelled(data, names)
        labels = data.labels
        if labels is None:
            raise InvalidRequest(f"--labels: calibration data '{args.calibration}' hold no y; add it, or leave --labels out.")
    return probe(
        model,
        data,
        labels=labels,
        steps=args.steps,
        batch=args.batch,
        rate=args.rate,
        seed=args.seed,
        progress=progress,
    )


def rank_runs(args: argparse.Namespace, progress: Progress) -> Ranking:
    """`dyncompress rank`: the runs of a table in the order that measures predict."""
    runs = read_runs(args.runs)
    return rank(
        runs,
        args.measures,
        gaps=runs.gaps,
        hyperparameters=runs.hyperparameters,
        calibration=None if args.calibration is None else load_data(args.calibration, "calibration data"),
        example=None if args.example is None else load_data(args.example, "example"),
        progress=progress,
    )


def open_request(args: argparse.Namespace, held_out: str | None, plan: Plan | None = None) -> Request:
    """Open and check everything that the arguments name, before any heavy work.

    Args:
        args: of `compress` or `measure`.
        held_out: the argument that names held-out examples, or None.
        plan: to be applied; its recipe and target are used where the arguments name none.
    """
    recipe, target = recipe_for(args.recipe, plan, settings(args.set)), target_for(args.target, plan)
    refuse_mismatch(recipe, target, plan)
    fresh_data = None if held_out is None else load_data(held_out, "held-out data")
    calibration = None if args.calibration is None else load_data(args.calibration, "calibration data")
    shown = None if args.example is None else load_data(args.example, "example")
    given = next((data for data in (calibration, fresh_data, shown) if data is not None), None)
    if given is None:
        raise InvalidRequest(NO_DATA)
    model = load_model(args.model)
    names, data = resolve_inputs(model, given)
    batches = None if args.calibration is None else as_batches(data, names, task.examples_drawn(recipe), unchecked=True)
    examples = None if fresh_data is None else as_held_out(fresh_data, names, unchecked=True)
    if examples is not None:
        fresh, _ = without_seen(examples, frozenset(digests(batches or [])))  # the certificate counts the others
        spec = recipe.certificate
        refuse_too_few(fresh, Promise(spec.risk, spec.delta, recipe.budget.risk_increase, spec.method))
    example = first_rows(examples) if examples is not None else None if shown is None else data
    start = open_task(model, recipe, target, InputData(batches, example, free_axes(args.free_axes), _training(args, model)))
    return Request(start, recipe, target, batches, examples, args.trajectory, args.batch_size)


def _training(args: argparse.Namespace, model: object) -> Path | TrainingState | None:
    """What the training left behind: its path, or the state of a checkpoint whose batch size the user gives."""
    if args.trajectory is None or args.batch_size is None:
        return args.trajectory
    parameters = [(name, tuple(p.shape)) for name, p in model.named_parameters()] if isinstance(model, nn.Module) else []
    return load_training_state(args.trajectory, batch_size=args.batch_size, parameters=parameters)


def reuse_or_measure(request: Request, directory: Path | None, progress: Progress) -> tuple[Profile, str]:
    """The profile that is saved in the directory if everything that it depends on is unchanged, else a new one; and its text."""
    key = request.key()
    saved = None if directory is None else _saved(directory / PROFILE, key)
    if saved is not None:
        with progress.phase("reuse the measured profile"):
            return saved
    example = None if request.held_out is None else request.held_out.inputs
    profile = measure(
        request.model,
        request.recipe,
        target=request.target,
        calibration=request.batches,
        example=example,
        progress=progress,
    )
    return profile, with_key(profile_to_json(profile), key)


def with_key(text: str, key: str) -> str:
    """The profile's JSON together with a digest of what the profile depends on."""
    return f'{{"depends_on":"{key}","profile":{text.strip()}}}\n'


def _saved(path: Path, key: str) -> tuple[Profile, str] | None:
    """The saved profile and its text, if there is one with this key."""
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if json.loads(text)["depends_on"] != key:
            return None
    except (ValueError, KeyError, TypeError):
        return None  # another or a truncated file: the model is measured again
    return profile_from_json(text), text


def time_files(files: Mapping[str, bytes], args: argparse.Namespace) -> dict[str, Timing]:
    """`dyncompress bench`: the times of several files on the first examples of the data."""
    target = load_target(args.target)
    names = Session(next(iter(files.values())), target).input_names
    held = as_labelled(load_data(args.data, "data"), names)
    inputs = {name: value[: args.batch] for name, value in held.inputs.items()}
    return compare(files, inputs, target, threads=args.threads, rounds=args.rounds)
