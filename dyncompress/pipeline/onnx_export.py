"""Write the ONNX file of a compressed model: float export, integer weights, activation ranges, checks, parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dyncompress import deployment
from dyncompress.coding import pack
from dyncompress.deployment.fusion import float_operators
from dyncompress.deployment.row_order import RowOrder, row_order
from dyncompress.errors import Differs, Infeasible, InvalidRequest, Unsupported
from dyncompress.measures.divergence import divergence
from dyncompress.models.data import digests
from dyncompress.pipeline.observed_model import as_numpy, count_of, first_examples, outputs, shown_to, to_numpy
from dyncompress.types import FLOAT_BITS, Batch, Compressed, Encoding, Model, OnnxFile, Parity, Placement, Target
from dyncompress.types.progress import Progress

FLOAT_TOLERANCE = 1e-3  # of the outputs' range; exported graphs agree to 1e-6; a larger error means another computation
Outputs = tuple[np.ndarray, ...]
COARSE = 0.25  # of an output's root mean square, or of a channel's spread: a larger error is noted


def shipped_file(compressed: Compressed, target: Target, progress: Progress) -> OnnxFile:
    """Write, check and compare the file of a compressed model.

    Raises:
        InvalidRequest: activations are to be integers and there are no calibration batches for their ranges.
        Unsupported: the file is larger than the target can take.
        Differs: the float graph doesn't compute what the model computes, or a channel of an output is lost.
    """
    plan, batches = compressed.plan, [as_numpy(batch) for batch in compressed.calibration]
    aside = [as_numpy(batch) for batch in compressed.aside]
    integer = any(choice.activation_bits != FLOAT_BITS for choice in plan.realised.values())
    coded = any(choice.step for choice in plan.realised.values())
    if integer and not batches:
        raise InvalidRequest("integer activations need ranges: give calibration data, or set quantize.activation_bits = 32.")
    target = target if integer else replace(target, activation_dtype="float32")
    with progress.phase("export to ONNX"):
        example = first_examples(batches, 2)[0] if batches else as_numpy(compressed.model.example)
        float_file, places, notes = compressed.model.to_onnx_with_notes(example)
    given = compressed.shown or shown_to(compressed.model, [*aside, *batches] or [example])
    shown, original = [as_numpy(batch) for batch in given.batches], tuple(given.outputs)
    with progress.phase("write the integer graph"):
        exported = _exported(float_file, target, compressed.model, (shown, original))
        encodings = encodings_by_initializer(compressed.encodings, places)
        complete = len(exported.outputs[0]) == count_of(shown) >= count_of([*aside, *batches])
        written = deployment.integer_file(
            float_file,
            encodings,
            deployment.Calibration(batches if integer else [], compressed.activation_share),
            deployment.byte_target(target) if coded else target,
            deployment.Comparison(shown, exported.outputs, original, tuple(exported.positions.values()), complete, exported.rows),
        )
        deployment.check(written.body)
    _refuse_too_large(written.body, target)
    with progress.phase("compare with the original model"):
        parity, stages = _compared(compressed.model, shown, exported, (written.outputs, original))
    container = pack(written.body) if coded else b""
    fused = deployment.audit(written.body, target)
    warnings = [deployment.matches_target(target), float_operators(fused, target), *activation_notes(written), *coarse(parity)]
    return OnnxFile(
        body=written.body,
        plan=plan,
        sizes=replace(deployment.sizes(written.body, encodings), container=len(container)),
        float_bytes=int(plan.cost["float_bytes"]),
        parity=parity,
        fused=fused,
        macs=(int(plan.cost["float_macs"]), compressed.model.macs),
        stages={**compressed.stages, **stages},
        target=target,
        notes=(*compressed.model.notes, *notes, *(warning for warning in warnings if warning)),
        seen=frozenset(digests([*aside, *batches])),
        errors=compressed.errors,
        packed=container,
        inputs=exported.inputs,
    )


@dataclass(frozen=True)
class _Exported:
    """What is known of the float graph from a session, which itself holds all weights and isn't kept.

    Attributes:
        outputs: on the inputs that are compared.
        rows: how rows are put in the original's order.
        inputs: see `Session.input_shapes`.
        positions: see `Session.positions`.
    """

    outputs: Outputs
    rows: RowOrder
    inputs: Mapping[str, tuple[int | str, ...]]
    positions: Mapping[str, tuple[bool, ...]]


def _exported(float_file: bytes, target: Target, model: Model, shown: tuple[Sequence[Batch], Outputs]) -> _Exported:
    """Run the float graph.

    Args:
        float_file: ONNX.
        target: whose session options are used.
        model: that was exported.
        shown: batches of inputs, and the original model's outputs on them.
    """
    session = deployment.Session(float_file, target, deployment.processors())
    rows = row_order(float_file, shown[1])
    return _Exported(rows.matched(of_any_length(session, *shown, model)), rows, session.input_shapes, session.positions)


def _compared(
    model: Model, shown: Sequence[Batch], exported: _Exported, outputs_of: tuple[Outputs, Outputs]
) -> tuple[Parity, dict[str, float]]:
    """The parity of the file, and the divergence after each stage of export.

    Args:
        model: the compressed model.
        shown: batches of inputs.
        exported: the float graph's outputs on them.
        outputs_of: the outputs on them of the finished file, and of the model that came in.

    Raises:
        Differs: see `faithful`.
    """
    written, original = outputs_of
    reference = exported.rows.matched(outputs(model, shown))
    parity = deployment.parity_of_outputs(reference, exported.outputs, written, original, exported.positions)
    unit = "examples" if parity.n == count_of(shown) else "positions"
    parity = replace(faithful(parity), divergence=divergence(original[0], written[0]), unit=unit)
    return parity, {"export": divergence(reference[0], exported.outputs[0]), "activations": divergence(reference[0], written[0])}


def _refuse_too_large(body: bytes, target: Target) -> None:
    """Refuse a file that the target can't take."""
    if target.max_model_bytes and len(body) > target.max_model_bytes:
        size, most = f"{len(body):,}", f"{target.max_model_bytes:,}"
        raise Unsupported(f"the file takes {size} bytes, target '{target.name}' takes {most}; lower budget.bytes.")


def faithful(parity: Parity) -> Parity:
    """The parity itself, if the float graph computes what torch computes and no channel of an output is lost.

    Raises:
        Differs: the float graph computes something else, or a channel is lost.
    """
    if not parity.float_error <= FLOAT_TOLERANCE:  # nan fails too
        raise Differs(
            f"the exported float graph's outputs differ from torch's by {parity.float_error:.2g} of their range on {parity.n} "
            f"examples, {FLOAT_TOLERANCE:g} is allowed; the exporter fixed a value that depends on data, or a sort orders equal "
            "values in another way: rewrite that part of forward."
        )
    for output in parity.outputs:
        if output.lost:
            (axis, channel), others = output.lost[0], f" and {len(output.lost) - 1} more" * (len(output.lost) > 1)
            raise Differs(
                f"output '{output.name}' has lost channel {channel} (axis {axis}){others}: over {parity.n} examples it "
                "varies in the original model and doesn't in the file; compress less, or leave the layers before it alone."
            )
    return parity


def coarse(parity: Parity) -> list[str]:
    """Warnings about outputs of the file that are far from those of the model that came in."""
    warnings = []
    for output in parity.outputs:
        where = f"output '{output.name}'"
        if output.relative_error > COARSE:
            warnings.append(f"{where} differs from the original model's by {100 * output.relative_error:.0f} % (RMS).")
        if output.channel_error > COARSE:
            warnings.append(
                f"channel {output.channel} (axis {output.axis}) of {where} is off by {100 * output.channel_error:.0f} % of its "
                f"spread, of which {100 * output.file_error:.0f} % by integer activations; give calibration data like the data "
                "the model will meet, compress less, or set quantize.activation_bits = 32."
            )
    return warnings


def activation_notes(written: deployment.IntegerFile) -> list[str]:
    """Sentences about activations that stay float, and about activation ranges that leave values out."""
    notes = []
    if written.over_other == written.over_other:
        other = "dynamic" if written.form == "static" else "static"
        notes.append(f"a run takes {1 / written.over_other:.2f} of the time that it takes in the {other} form of products.")
    if written.form == "dynamic":
        notes.append(
            "activations are quantized on the range of each run's values (dynamic form), so that the outputs for an example "
            "change a little with the others of its batch; outputs here are those of batches of one."
        )
    if written.all_float:
        notes.append("all activations stay float: with 8-bit activations a channel of an output would be lost.")
    elif written.gain < deployment.WORTH:
        notes.append(
            f"all activations stay float: with 8 bits a run would be {written.gain:.2f} times as fast as without, which isn't "
            "worth their errors."
        )
    elif written.floats:
        name, error = max(written.floats.items(), key=lambda item: item[1])
        stay = "1 activation stays" if len(written.floats) == 1 else f"{len(written.floats)} activations stay"
        notes.append(
            f"{stay} float, since with 8 bits the error of a channel would be too large (the largest at '{name}': "
            f"{_share(error)} of the channel's spread)."
        )
    if written.first:
        count, last = len(written.first), written.first[-1]
        stay = "the first activation stays" if count == 1 else f"the first {count} activations stay"
        notes.append(
            f"{stay} float (up to '{last}'), since with 8 bits the error of an output would be {_share(written.error)} of its "
            "channels' spreads."
        )
    if written.cut:
        name, share = max(written.cut.items(), key=lambda item: item[1])
        ranges = (
            "the range of 1 activation leaves" if len(written.cut) == 1 else f"the ranges of {len(written.cut)} activations leave"
        )
        notes.append(
            f"{ranges} out the largest values of some calibration examples (at '{name}', of {100 * share:.2g} % of them), since "
            "the outputs hardly change; quantize.activation_share = 1 includes all."
        )
    return notes


def _share(error: float) -> str:
    return f"{100 * error:.0f} %" if error < 10 else "more than 1000 %"


def of_any_length(
    session: deployment.Session, shown: Sequence[Batch], original: Sequence[np.ndarray], model: Model
) -> tuple[np.ndarray, ...]:
    """The outputs of the float graph, in the shapes of the original model's outputs.

    Raises:
        Unsupported: the graph doesn't take every length along the free axes.
    """
    free = ", ".join(f"{list(axes)} of input '{name}'" for name, axes in model.free.items() if axes)
    try:
        exported = session.over(shown)
        shapes, wanted = [value.shape for value in exported], [value.shape for value in original[: len(exported)]]
        if shapes != wanted:
            raise Differs(f"the exported graph has outputs {shapes} on all examples, the model that came in has {wanted}.")
        return exported
    except (InvalidRequest, Differs) as error:
        if not free:
            raise
        raise Unsupported(
            f"the exported graph keeps one length along axes {free}, which have to take any length ({str(error).rstrip('.')}); "
            "pad or crop all inputs to one shape, or make the forward method independent of that length."
        ) from error


def within(budget: float | None, file: OnnxFile) -> OnnxFile:
    """The file itself, if it came out within a budget of bytes (below 1: a fraction of the float file), any seal included.

    Raises:
        Infeasible: the file is larger.
    """
    whole = None if budget is None else budget if budget >= 1 else budget * file.float_bytes
    if whole is not None and len(file.shipped) > whole:
        raise Infeasible(f"the file takes {len(file.shipped):,} bytes, the budget is {whole:,.0f}; raise budget.bytes.")
    return file


def encodings_by_initializer(
    encodings: Mapping[str, Encoding], places: Mapping[str, Sequence[Placement]]
) -> dict[str, tuple[Encoding, str]]:
    """Initializer -> (encoding in numpy, layout), for every use of every encoded layer.

    Raises:
        Unsupported: an encoded weight isn't in the graph, which would ship it as float.
    """
    encoded = {}
    for layer, encoding in encodings.items():
        if not places.get(layer):
            raise Unsupported(
                f"layer '{layer}': its weight is not in the exported graph any more; exclude it with a [[layer]] rule, "
                "leave_alone = true."
            )
        arrays = replace(encoding, codes=to_numpy(encoding.codes), scale=to_numpy(encoding.scale))
        for place in places[layer]:
            encoded[place.initializer] = (arrays, place.layout)
    return encoded
