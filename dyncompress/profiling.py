"""What `measure` does: one pass over the layers gives the estimates, the exact errors of every choice, and their costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dyncompress import deployment, options
from dyncompress.allocation import distortion
from dyncompress.divergence import divergence
from dyncompress.errors import InvalidRequest
from dyncompress.models.torch import TorchModel
from dyncompress.progress import Progress
from dyncompress.realisation import CHANNELS, compressed_layer
from dyncompress.recipe import Recipe, rules_for
from dyncompress.types import (
    FLOAT_BITS,
    Batch,
    ChannelGroup,
    Choice,
    InputMoment,
    Layer,
    Motion,
    Need,
    Observation,
    Option,
    OutputFisher,
    Placement,
    Profile,
    SetWeight,
    Target,
    Trajectory,
    Weight,
    WeightMotion,
)

PROBE_EXAMPLES = 256


@dataclass(frozen=True)
class Setting:
    """What a profile is made of: the opened model, the recipe, the target, and the data.

    Attributes:
        door: the opened model.
        recipe, target: values.
        batches: calibration batches; one example batch where there is no calibration data.
        calibrated: whether `batches` are calibration data.
        trajectory: or None.
    """

    door: TorchModel
    recipe: Recipe
    target: Target
    batches: Sequence[Batch]
    calibrated: bool
    trajectory: Trajectory | None


def profile_of(setting: Setting, progress: Progress) -> Profile:
    """Observe every layer once, and tabulate."""
    door, recipe, target = setting.door, setting.recipe, setting.target
    layers = door.layers()
    rules = rules_for(recipe, [layer.name for layer in layers])
    with progress.phase("export the original"):
        float_file, places = door.to_onnx(setting.batches[0])
    reasons = left_alone(layers, places, {name for name, rule in rules.items() if rule.leave_alone}, recipe.name)
    groups = _groups(setting, reasons)
    readers = {name for group in groups for name in (*group.producers, *group.consumers)}
    estimates: dict[str, dict[str, object]] = {name: {} for name in recipe.measures}
    errors, kept = {}, {}
    with progress.phase("measure the layers", len(layers)) as step:
        for name, observation in _observed(setting, bool(groups)):
            step.advance()
            for measure, value in recipe.measures.items():
                if all(need in observation for need in value.needs):
                    estimates[measure][name] = value(observation)
            if name in readers:
                kept[name] = observation
            if name not in reasons:
                errors[name] = options.layer_errors(observation, recipe, target, rules.get(name))
    source = _source(setting, errors)
    log_sensitivity = {
        kind: distortion.log_sensitivity(estimates, recipe.coefficients.get(kind, {})) for kind in ("pruning", "quantization")
    }
    for table in log_sensitivity.values():
        for name in errors:
            table.setdefault(name, 0.0)
    probed = _probe(setting, errors, progress) if source == "probe" else {}
    harm = options.harms(errors, source, log_sensitivity, probed)
    by_name = {layer.name: layer for layer in layers}
    table: dict[str, tuple[Option, ...]] = {
        name: options.layer_options(by_name[name], found, harm[name], file_bytes) for name, found in errors.items()
    }
    for group in groups:
        table[CHANNELS + group.name] = options.channel_options(group, kept, recipe, target, file_bytes)
    placed = {name: places[name] for name in errors}
    return Profile(
        layers=layers,
        estimates={name: found for name, found in estimates.items() if found},  # type: ignore[misc]
        table=table,
        source=dict.fromkeys(table, source),
        reasons=reasons,
        float_bytes=len(float_file),
        fixed_bytes=_fixed_bytes(float_file, placed, by_name, target, recipe),
        macs=door.macs,
        digest=door.digest(),
        recipe=recipe.name,
        target=target.name,
        notes=tuple(door.notes),
    )


def file_bytes(layer: Layer, choice: Choice) -> float:
    """What a layer takes in the shipped file under a choice."""
    if choice.weight_bits == FLOAT_BITS:
        return 4.0 * (layer.weights + layer.out)
    return float(deployment.storage_bytes(layer.shape, choice.weight_bits, choice.granularity, choice.sparsity))


def left_alone(
    layers: Sequence[Layer], places: Mapping[str, Sequence[Placement]], excluded: set[str], recipe: str
) -> dict[str, str]:
    """Layer -> why its weight is left as it is."""
    reasons = {}
    for layer in layers:
        if layer.left_alone:
            reasons[layer.name] = layer.left_alone
        elif layer.name in excluded:
            reasons[layer.name] = f"recipe '{recipe}' leaves it alone"
        elif not places.get(layer.name):
            reasons[layer.name] = "its weight is not an initializer of the exported graph (the exporter rewrote it)"
    return reasons


def share_left_alone(layers: Sequence[Layer], reasons: Mapping[str, str]) -> dict[str, float]:
    """The share of weights and of MACs that no choice touches, fractions."""
    weights, macs = sum(layer.weights for layer in layers), sum(layer.macs for layer in layers)
    alone = [layer for layer in layers if layer.name in reasons]
    return {
        "weights": sum(layer.weights for layer in alone) / max(weights, 1),
        "macs": sum(layer.macs for layer in alone) / max(macs, 1),
    }


def _groups(setting: Setting, reasons: Mapping[str, str]) -> tuple[ChannelGroup, ...]:
    """Channel groups the recipe may shrink."""
    if not setting.recipe.keeps:
        return ()
    if not setting.calibrated:
        raise InvalidRequest(f"recipe '{setting.recipe.name}' removes channels, which needs calibration data; give calibration=.")
    return tuple(g for g in setting.door.channel_groups() if not any(n in reasons for n in (*g.producers, *g.consumers)))


def _needs(setting: Setting, channels: bool) -> tuple[Need, ...]:
    """What has to be observed."""
    recipe = setting.recipe
    tools = [*recipe.measures.values(), *(t for t in (recipe.pruner, recipe.quantizer) if t is not None)]
    needs: set[Need] = {Weight(), *(need for tool in tools for need in tool.needs)}
    if setting.calibrated and ("fisher" in recipe.sensitivity or channels):
        needs |= {InputMoment(), OutputFisher()}
    needs.discard(Motion())
    if not setting.calibrated:
        needs -= {InputMoment(), OutputFisher()}
    return tuple(needs)


def _observed(setting: Setting, channels: bool):  # noqa: ANN202
    """Layer by layer; the trajectory's motion is added in the coordinates of the folded weights."""
    data = setting.batches if setting.calibrated else setting.batches[:1]
    for name, observation in setting.door.observe(_needs(setting, channels), data):
        motion = setting.trajectory.motion.get(name) if setting.trajectory is not None else None
        if motion is not None:
            values = {**observation.values, Motion(): folded_motion(motion, observation[Weight()])}
            observation = Observation(observation.layer, values)
        yield name, observation


def folded_motion(motion: WeightMotion, weight: object) -> WeightMotion:
    """The motion of the trained weight, in the coordinates of the weight after normalisation layers were folded into it."""
    rows = np.asarray(weight.detach().cpu().double()).reshape(motion.mean.shape[0], -1)  # type: ignore[attr-defined]
    before = np.linalg.norm(motion.mean.reshape(motion.mean.shape[0], -1), axis=1)
    gain = np.linalg.norm(rows, axis=1) / np.maximum(before, 1e-12)
    shape = (-1, *[1] * (motion.mean.ndim - 1))
    squared = np.square(gain).reshape(shape)
    return replace(
        motion,
        mean=motion.mean * gain.reshape(shape),
        variance=motion.variance * squared,
        increment_variance=motion.increment_variance * squared,
    )


def _source(setting: Setting, errors: Mapping[str, Sequence[options.Errors]]) -> str:
    """The first of the recipe's sensitivities that this model and these data allow."""
    flat = [e for found in errors.values() for e in found]
    possible = {
        "fisher": any(np.isfinite(e.output) for e in flat),
        "trajectory": any(np.isfinite(e.motion) for e in flat),
        "probe": setting.calibrated,
        "theory": True,
    }
    for name in setting.recipe.sensitivity:
        if possible[name]:
            return name
    wanted = " or ".join(setting.recipe.sensitivity)
    needs = "a trajectory" if "trajectory" in setting.recipe.sensitivity else "calibration data"
    raise InvalidRequest(f"recipe '{setting.recipe.name}' reads sensitivities from {wanted}, which needs {needs}; give it, or add 'theory'.")


def _probe(setting: Setting, errors: Mapping[str, Sequence[options.Errors]], progress: Progress) -> dict[str, float]:
    """Nats of divergence for a unit of relative error: compress one layer, match the moments, compare the outputs."""
    door, found = setting.door, {}
    batches = first_examples(setting.batches, PROBE_EXAMPLES)
    before = outputs(door, batches)
    needs = tuple(n for n in _needs(setting, False) if not isinstance(n, OutputFisher))
    with progress.phase("probe the layers", len(errors)) as step:
        for name, observation in door.observe(needs, setting.batches):
            if name not in errors:
                continue
            step.advance()
            bold = max(errors[name], key=lambda e: e.pruning + e.rounding)
            if bold.pruning + bold.rounding == 0:
                continue
            _, weight, _ = compressed_layer(observation, bold.choice, setting.recipe, setting.target)
            edited, _ = door.edited([SetWeight(name, weight)]).matched(door, batches)
            found[name] = divergence(before, outputs(edited, batches)) / (bold.pruning + bold.rounding)
    return found


def _fixed_bytes(
    float_file: bytes, places: Mapping[str, Sequence[Placement]], layers: Mapping[str, Layer], target: Target, recipe: Recipe
) -> int:
    """What the shipped file holds whatever is chosen, by writing one."""
    if recipe.quantizer is None or not places:
        return len(float_file) - int(sum(4 * layers[name].weights for name in places))
    return deployment.overhead(float_file, {layers[name]: found for name, found in places.items()}, target)


def first_examples(batches: Sequence[Batch], n: int) -> list[Batch]:
    """The first n examples, batch by batch."""
    found: list[Batch] = []
    for batch in batches:
        size = len(next(iter(batch.values())))
        found.append({name: value[:n] for name, value in batch.items()} if size > n else batch)
        n -= size
        if n <= 0:
            break
    return found


def outputs(door: TorchModel, batches: Sequence[Batch]) -> np.ndarray:
    """The first output on all batches, float32 numpy, `[n, ...]`."""
    return np.concatenate([np.asarray(door.predict(batch)[0].detach().float().cpu()) for batch in batches])
