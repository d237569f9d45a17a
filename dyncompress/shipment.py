"""From a compressed model to the ONNX file: float export, integer weights, activation ranges, checks, parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dyncompress import deployment
from dyncompress.coding import pack
from dyncompress.divergence import divergence
from dyncompress.errors import Differs, Infeasible, InvalidRequest, Unsupported
from dyncompress.examples import digests
from dyncompress.opening import first_examples, outputs
from dyncompress.progress import Progress
from dyncompress.types import FLOAT_BITS, Array, Batch, Compressed, Encoding, OnnxFile, Parity, Placement, Target

PARITY_EXAMPLES = 256
FLOAT_TOLERANCE = 1e-3  # of the outputs' range; exported graphs agree to 1e-6, so that more is another computation
COARSE = 0.25


def shipped_file(compressed: Compressed, target: Target, progress: Progress) -> OnnxFile:
    """Write, check and compare the file of a compressed model.

    Raises:
        InvalidRequest: activations are to be integers and there are no calibration batches to range them on.
        Unsupported: the file is larger than the target can take.
        Differs: the float graph doesn't compute what torch computes.
    """
    plan, batches = compressed.plan, [as_numpy(batch) for batch in compressed.calibration]
    integer = any(choice.activation_bits != FLOAT_BITS for choice in plan.realised.values())
    if not integer:
        target = replace(target, activation_dtype="float32")
    coded = any(choice.step for choice in plan.realised.values())
    if integer and not batches:
        raise InvalidRequest("integer activations need ranges: give calibration data, or set quantize.activation_bits = 32.")
    with progress.phase("export to ONNX"):
        example = first_examples(batches, 2)[0] if batches else as_numpy(compressed.model.example)
        float_file, places, notes = compressed.model.to_onnx_with_notes(example)
    with progress.phase("write the integer graph"):
        encodings = placed(compressed.encodings, places)
        found = deployment.ranges(float_file, batches) if integer else {}
        body = deployment.write(float_file, encodings, found, deployment.dense(target) if coded else target)
        deployment.check(body)
    if target.max_model_bytes and len(body) > target.max_model_bytes:
        most = f"{target.max_model_bytes:,}"
        raise Unsupported(f"the file takes {len(body):,} bytes, target '{target.name}' takes {most}; lower budget.bytes.")
    with progress.phase("compare with torch"):
        shown = first_examples(batches or [example], PARITY_EXAMPLES)
        reference = outputs(compressed.model, shown)
        joined = {name: np.concatenate([batch[name] for batch in shown]) for name in shown[0]}
        exported, ran = (deployment.Session(content, target).run(joined) for content in (float_file, body))
        parity = faithful(deployment.compared(reference, exported, ran))
    after = {"export": divergence(reference[0], exported[0]), "activations": divergence(reference[0], ran[0])}
    container = pack(body) if coded else b""
    warnings = [deployment.matches_target(target), _coarse(parity)]
    return OnnxFile(
        body=body,
        plan=plan,
        sizes=replace(deployment.sizes(body, encodings), container=len(container)),
        float_bytes=int(plan.cost["float_bytes"]),
        parity=parity,
        fused=deployment.audit(body, target),
        macs=(int(plan.cost["float_macs"]), compressed.model.macs),
        stages={**compressed.stages, **after},
        target=target,
        notes=(*compressed.model.notes, *notes, *(warning for warning in warnings if warning)),
        seen=frozenset(digests(batches)),
        errors=compressed.errors,
        packed=container,
    )


def faithful(parity: Parity) -> Parity:
    """The parity itself, if the float graph computes what torch computes.

    Raises:
        Differs: it doesn't.
    """
    if not parity.float_error <= FLOAT_TOLERANCE:  # nan fails too
        raise Differs(
            f"the exported float graph's outputs differ from torch's by {parity.float_error:.2g} of their range on {parity.n} "
            f"examples, {FLOAT_TOLERANCE:g} is allowed; the exporter froze something: rewrite what depends on data in forward."
        )
    return parity


def _coarse(parity: Parity) -> str:
    """A warning where integer activations change the outputs much."""
    if parity.relative_error <= COARSE:
        return ""
    return (
        f"integer activations change the outputs by {100 * parity.relative_error:.0f} % (RMS): give calibration data like the "
        "data the model will meet, or set quantize.activation_bits = 32."
    )


def within(budget: float | None, file: OnnxFile) -> OnnxFile:
    """The file itself, if it came out within a budget of bytes (below 1: a fraction of the float file), any seal included.

    Raises:
        Infeasible: it didn't.
    """
    whole = None if budget is None else budget if budget >= 1 else budget * file.float_bytes
    if whole is not None and len(file.shipped) > whole:
        raise Infeasible(f"the file takes {len(file.shipped):,} bytes, the budget is {whole:,.0f}; raise budget.bytes.")
    return file


def placed(encodings: Mapping[str, Encoding], places: Mapping[str, Sequence[Placement]]) -> dict[str, tuple[Encoding, str]]:
    """Initializer -> (encoding in numpy, layout), for every use of every encoded layer.

    Raises:
        Unsupported: an encoded weight isn't in the graph, which would ship it as float.
    """
    found = {}
    for layer, encoding in encodings.items():
        if not places.get(layer):
            raise Unsupported(
                f"layer '{layer}': its weight is not in the exported graph any more; exclude it with a [[layer]] rule, "
                "leave_alone = true."
            )
        arrays = replace(encoding, codes=to_numpy(encoding.codes), scale=to_numpy(encoding.scale))
        for place in places[layer]:
            found[place.initializer] = (arrays, place.layout)
    return found


def as_numpy(batch: Batch) -> dict[str, np.ndarray]:
    """The same batch in numpy."""
    return {name: to_numpy(value) for name, value in batch.items()}


def to_numpy(value: Array) -> np.ndarray:
    """An array of any kind, on the CPU."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
