"""The verbs. A model is measured, a plan allocated and applied, the ONNX file written, and that file certified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyncompress.allocation.plan import allocated, limits_of
from dyncompress.certificates.promise import Promise
from dyncompress.models import load
from dyncompress.models.torch.calling import as_verb
from dyncompress.pipeline import certification
from dyncompress.pipeline.application.apply_plan import apply_plan
from dyncompress.pipeline.completion import with_speed
from dyncompress.pipeline.one_call import OneCall, compress_in_one_call
from dyncompress.pipeline.onnx_export import shipped_file
from dyncompress.pipeline.profiling.profile import profile_of
from dyncompress.pipeline.task import InputData, held_out_of, open_task
from dyncompress.pipeline.verification import verify
from dyncompress.recipe.checks import parse_budget
from dyncompress.recipe.plan_file import read_plan
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.toml_files import allocated_by_another, load_recipe, load_target, recipe_for, target_for
from dyncompress.types import Budget, Compressed, OnnxFile, Plan, Profile, Target
from dyncompress.types.progress import SILENT, Progress

__all__ = ["allocate", "apply", "certify", "compress", "export", "measure", "verify"]


@as_verb
def measure(
    model: Any,
    recipe: str | Path | Recipe,
    *,
    target: str | Path | Target,
    calibration: Any = None,
    trajectory: Any = None,
    example: Any = None,
    free_axes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = SILENT,
) -> Profile:
    """Observe the layers and tabulate, for every choice, its costs and its predicted distortion; any budget is solved from that.

    Args:
        model: a torch module or a model adapter; it is not changed.
        recipe, target: a shipped name, the path of a TOML file, or the value.
        calibration: any iterable of batches (tensor, tuple, dict; labels are ignored); recipes that read weights alone need none.
        trajectory: what the training left behind: a recorded run, a checkpoint with the optimizer's state (see
            `load_training_state`), or the optimizer. Without calibration data, a recipe does what can be done without.
        example: one batch of inputs, where there are no calibration data.
        free_axes: input -> axes (batch: 0) that take any length in the file, e.g. `{"x": [2, 3]}`, beside the data's.
        progress: receives the phases of the work.

    Example:
        >>> import torch
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(8, 3)), torch.randn(64, 8)
        >>> profile = measure(net, "smallest", target="onnxruntime-x86-vnni", calibration=x)
        >>> [(layer.name, layer.shape) for layer in profile.layers]
        [('0', (3, 8))]
    """
    data = InputData(calibration, example, free_axes, trajectory)
    return profile_of(open_task(model, load_recipe(recipe), load_target(target), data, progress))


def allocate(profile: Profile, budget: Budget | None = None, *, recipe: str | Path | Recipe | None = None) -> Plan:
    """Choose one option for every unit: the least distortion within the budget, or the fewest bytes for `budget.distortion`.

    Raises:
        Infeasible: even the smallest plan exceeds the budget.
        InvalidRequest: the budget isn't one.

    Example:
        >>> import torch
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(64, 32)), torch.randn(64, 64)
        >>> profile = measure(net, "smallest", target="onnxruntime-x86-vnni", calibration=x)
        >>> plan = allocate(profile, Budget(bytes=0.9))
        >>> plan.cost["bytes"] <= 0.9 * profile.float_bytes
        True
    """
    recipe = recipe_for(recipe, profile)
    budget = parse_budget(budget or recipe.budget)
    plan = allocated(profile, limits_of(profile, budget), recipe.allocator)
    return replace(plan, notes=(*plan.notes, *allocated_by_another(recipe, profile)))


@as_verb
def apply(
    model: Any,
    plan: Plan | str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    target: str | Path | Target | None = None,
    calibration: Any = None,
    trajectory: Any = None,
    example: Any = None,
    free_axes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = SILENT,
) -> Compressed:
    """Carry out a plan, or the file of one, on a copy of the model: remove channels and refit, prune, round, match moments.

    The other arguments are those of `measure`; None takes the plan's own recipe and target.

    Returns:
        the compressed model; its `.module` is a torch model again.

    Example:
        >>> import torch
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(8, 3)), torch.randn(64, 8)
        >>> profile = measure(net, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        >>> sorted(apply(net, allocate(profile), calibration=x).encodings)
        ['0']
    """
    plan = plan if isinstance(plan, Plan) else read_plan(plan)
    recipe, target = recipe_for(recipe, plan), target_for(target, plan)
    task = open_task(model, recipe, target, InputData(calibration, example, free_axes, trajectory), progress)
    small = apply_plan(task, plan)
    return replace(small, plan=replace(small.plan, recipe=recipe.name, target=target.name))


@as_verb
def export(compressed: Compressed, *, target: str | Path | Target | None = None, progress: Progress = SILENT) -> OnnxFile:
    """Write the integer ONNX file, check it, and compare it with the model that came in.

    Example:
        >>> import torch
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(8, 3)), torch.randn(64, 8)
        >>> profile = measure(net, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        >>> file = export(apply(net, allocate(profile), calibration=x))
        >>> file.parity.n
        64
    """
    return shipped_file(compressed, load_target(target or compressed.plan.target), progress)


@as_verb
def certify(
    file: OnnxFile,
    *,
    reference: Any,
    held_out: Any,
    delta: float = 0.05,
    risk: Any = "zero_one",
    promise: float | None = None,
    look: int | None = None,
) -> OnnxFile:
    """Certify the file, as onnxruntime runs it, on examples that compression never saw, and seal it.

    Args:
        file: from `export`.
        reference: the original model.
        held_out: `(x, y)`, `(x, y, groups)`, a dict, or inputs alone (then agreement with the original is certified).
        delta: probability that the certificate is wrong, for all its lines together.
        risk: `zero_one`, `detection:iou=0.6` (see `certificates.RISKS`), or a function (outputs, labels) -> losses in [0, 1].
        promise: largest increase of the risk to promise.
        look: 1, 2, ... where several certificates are made on one held-out set: look k gets delta * 6 / (pi^2 k^2). None:
            the certificate says that it is valid only as the only look.

    Raises:
        NotCertified: the promise isn't kept at this confidence.
        InvalidRequest: the held-out examples overlap what compression saw, or are too few.

    Example:
        >>> import torch
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(8, 3)), torch.randn(264, 8)
        >>> file = compress(net, calibration=x[:64])
        >>> certify(file, reference=net, held_out=x[64:]).certificate.risk
        'agreement'
    """
    reference = load(reference)
    held = held_out_of(reference, held_out)
    original = certification.open_original(file, reference, held)
    asked = certification.CertificateRequest(Promise(delta=delta, risk_increase=promise), risk, look)
    trial = certification.trial(original, held, file.seen, asked)
    return with_speed(certification.certify_file(file, original, trial), original)


@as_verb
def compress(
    model: Any,
    recipe: str | Path | Recipe | None = None,
    *,
    target: str | Path | Target | None = None,
    calibration: Any = None,
    held_out: Any = None,
    trajectory: Any = None,
    example: Any = None,
    plan: Plan | Profile | str | Path | None = None,
    free_axes: Mapping[str, Sequence[int]] | None = None,
    keep_float: bool = False,
    progress: Progress = SILENT,
) -> OnnxFile:
    """All verbs in one call: measure, allocate, apply, export, and certify where there are held-out examples.

    Args:
        model: a torch module; it is not changed.
        recipe, target: as in `measure`; None: the plan's, else `edge-int8` and `onnxruntime-x86-vnni`.
        calibration, trajectory, example: as in `measure`.
        held_out: examples that nothing else sees; with them the file is certified and sealed.
        plan: a plan (or the path of its file) to apply as it is, whatever the budget; or a profile to start from.
        free_axes: as in `measure`.
        keep_float: keep the model's float32 ONNX file as `file.float_body`, to be saved and compared with; costs its bytes.
        progress: receives the phases of the work.

    Raises:
        Infeasible, NotCertified, InvalidRequest, Unsupported: as the verbs.

    Example:
        >>> import torch
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(64, 32)), torch.randn(64, 64)
        >>> file = compress(net, "edge-int8", target="onnxruntime-x86-vnni", calibration=x)
        >>> len(file.body) < file.float_bytes
        True
    """
    plan = read_plan(plan) if isinstance(plan, str | Path) else plan
    recipe, target = recipe_for(recipe, plan), target_for(target, plan)
    data = InputData(calibration, example, free_axes, trajectory)
    call = OneCall(model, recipe, target, data, held_out, plan, keep_float, progress)
    return compress_in_one_call(call)
