"""Certify a file on held-out examples: the losses of both networks, the path of plans, and the seal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dyncompress import deployment
from dyncompress.certificates.code_length import occam, self_delimiting_bits
from dyncompress.certificates.fixed_sequence import fixed_sequence, look_delta, path_digest
from dyncompress.certificates.losses import check_delta
from dyncompress.certificates.promise import (
    Circumstances,
    Promise,
    certificate_from_losses,
    check_method,
    minimum_examples,
    upper_increase,
)
from dyncompress.certificates.risks import AGREEMENT, RISKS, as_risk, losses_of, outputs_for, reads_all_outputs, risk_name
from dyncompress.certificates.wording import sample
from dyncompress.coding import description_bits, pack
from dyncompress.errors import InvalidRequest, NotCertified, Unsupported
from dyncompress.models import open_model
from dyncompress.models.data import overlap, refuse_not_finite, repeats
from dyncompress.pipeline.completion import candidate, with_candidates
from dyncompress.pipeline.observed_model import outputs
from dyncompress.pipeline.task import first_rows
from dyncompress.pipeline.verification import certificate_digest, examples_digest, without_rows
from dyncompress.recipe.plan_file import plan_to_toml
from dyncompress.types import Batch, HeldOut, Model, OnnxFile, Plan, Risk

ALLOWED_OVERLAP = 0.01  # share of held-out examples that may be dropped because compression saw them
CHUNK = 256
DEFAULT_RISK = "zero_one"  # without labels, `agreement` takes its place
NO_GROUPS = "Each held-out example is one independent draw (no groups were given)."
ALONE = "The file runs one example at a time: in a batch its activations are quantized on the range of all examples."


@dataclass(frozen=True)
class Trial:
    """Held-out examples and the promise that files are tested against on them.

    Attributes:
        held_out: examples that compression never saw.
        risk: a risk of the library or a user's own function.
        promise: the promise, fixed before any loss is computed; it names the risk.
        original: the original's outputs that the risk reads, the first or all, each `[n, ...]`.
        dropped: the examples that were dropped because compression saw them, counted in the data as given.
        look: which look at this held-out set this is; None: it must be the only one.
        repeated: the examples that were dropped because they equal an earlier one, counted in the data as given.
        relabelled: how many of these carry another label than the one that was kept.
    """

    held_out: HeldOut
    risk: Risk
    promise: Promise
    original: tuple[np.ndarray, ...]
    dropped: tuple[int, ...]
    look: int | None
    repeated: tuple[int, ...] = ()
    relabelled: int = 0

    def losses(self, file: OnnxFile) -> tuple[np.ndarray, np.ndarray]:
        """Losses `[n]` of the original and of the file as onnxruntime runs it."""
        session = deployment.Session(file.body, file.target)
        outputs, names = session.run(self.held_out.inputs), session.output_names
        if self.promise.risk == AGREEMENT:
            return np.zeros(len(outputs[0])), losses_of(self.risk, outputs[0], self.original[0])
        before, after = (outputs_for(self.risk, names, values) for values in (self.original, outputs))
        return losses_of(self.risk, before, self.held_out.labels), losses_of(self.risk, after, self.held_out.labels)

    def upper(self, file: OnnxFile) -> float:
        """The certified upper bound of the file's increase of the risk."""
        return upper_increase(*self.losses(file), self.promise, groups=self.held_out.groups)


@dataclass(frozen=True)
class CertificateRequest:
    """The promise that a certificate is asked to state.

    Attributes:
        promise: delta, and the largest increase of the risk, if one is promised.
        risk: a risk of the library, as a text or a value, or a function (outputs, labels) -> losses in [0, 1].
        look: which look at these held-out examples it is, from 1; None: valid only as the only one.
    """

    promise: Promise
    risk: str | Risk
    look: int | None = None


def trial(model: Model, held_out: HeldOut, seen: frozenset[str], asked: CertificateRequest) -> Trial:
    """Check the held-out examples, and run the original on those that are left: none that compression saw, none twice.

    Raises:
        InvalidRequest: more than 1 % of them were seen by compression, they are too few for the promise, the risk is unknown,
            their labels aren't what the risk compares the model's outputs with, or they hold NaN or infinite values that the
            model can't handle.
    """
    promise, look = asked.promise, asked.look
    check_delta(promise.delta)
    risk = as_risk(AGREEMENT if held_out.labels is None and asked.risk == DEFAULT_RISK else asked.risk)
    delta = promise.delta if look is None else look_delta(promise.delta, look)
    promise = replace(promise, risk=risk_name(risk), delta=delta)
    check_method(promise, grouped=held_out.groups is not None)
    rows_given = np.arange(len(held_out))
    held_out, dropped = without_seen(held_out, seen)
    refuse_too_few(held_out, promise)
    held_out, rows, relabelled = without_repeats(held_out)
    repeated = tuple(np.delete(rows_given, dropped)[list(rows)].tolist())
    original = _outputs(model, held_out)
    original = original if reads_all_outputs(risk) else original[:1]
    if any(output.dtype.kind == "f" and not np.isfinite(output).all() for output in original):
        for name, value in held_out.inputs.items():
            refuse_not_finite(value, f"held-out data: input '{name}'")
    check_labels(risk, original, held_out.labels)
    return Trial(held_out, risk, promise, original, dropped, look, repeated, relabelled)


def check_labels(risk: Risk, original: Sequence[np.ndarray], labels: np.ndarray | None) -> None:
    """Check labels against the form of the outputs before any plan is tested; no loss of the data is computed.

    Labels of a user's own risk aren't checked, because its function needn't take outputs of zeros.

    Raises:
        InvalidRequest: there are none, or the risk can't compare such outputs with them.
    """
    if risk_name(risk) == AGREEMENT:
        return
    if labels is None:
        raise InvalidRequest("the held-out data has no labels; add them, or use the risk 'agreement'.")
    if type(risk) in RISKS.values():
        names = [f"output {i}" for i in range(len(original))]
        losses_of(risk, outputs_for(risk, names, [np.zeros_like(output) for output in original]), labels)


def without_seen(held_out: HeldOut, seen: frozenset[str]) -> tuple[HeldOut, tuple[int, ...]]:
    """The examples that compression didn't see, and the rows of those that were dropped.

    Raises:
        InvalidRequest: more than 1 % were seen.
    """
    shared = overlap(held_out, seen)
    if not len(shared):
        return held_out, ()
    n = len(held_out)
    if len(shared) > ALLOWED_OVERLAP * n:
        raise InvalidRequest(
            f"{len(shared)} of {n} held-out examples equal calibration examples (same digest); "
            "a certificate needs examples the compression has not seen."
        )
    return without_rows(held_out, shared.tolist()), tuple(shared.tolist())


def without_repeats(held_out: HeldOut) -> tuple[HeldOut, tuple[int, ...], int]:
    """The examples of which no two have equal inputs, the rows of those that were dropped, and how many had another label.

    The first of equal examples stays, with its label and its group: a copy is no independent draw, whatever its group.
    Rows are dropped before any loss is computed and by the inputs alone, so that no loss can choose them.
    """
    rows, first = repeats(held_out)
    if not len(rows):
        return held_out, (), 0
    labels = held_out.labels
    relabelled = 0 if labels is None else int((labels[rows] != labels[first]).any(axis=tuple(range(1, labels.ndim))).sum())
    return without_rows(held_out, rows.tolist()), tuple(rows.tolist()), relabelled


def refuse_too_few(held_out: HeldOut, promise: Promise) -> None:
    """Refuse a promise that this many distinct examples couldn't keep even without one difference.

    Raises:
        InvalidRequest: states how many are needed.
    """
    if promise.risk_increase is None or promise.risk_increase <= 0:
        return
    held_out, repeated, _ = without_repeats(held_out)
    n = len(held_out) if held_out.groups is None else len(np.unique(held_out.groups))
    needed = minimum_examples(promise)
    if n < needed:
        once = f" ({len(repeated)} rows equal an earlier one and don't count)" if repeated else ""
        raise InvalidRequest(
            f"{n} held-out {'examples' if held_out.groups is None else 'groups'}{once} can't promise a risk increase of at most "
            f"{promise.risk_increase:g} at delta {promise.delta:.3g}, even without one difference; at least {needed} are needed."
        )


def refuse_another_original(file: OnnxFile, model: Model) -> None:
    """Refuse a reference that isn't the model behind the file; a file without a digest (one made by hand) can't be judged.

    Raises:
        InvalidRequest: names both digests.
    """
    if file.plan.digest and file.plan.digest != model.state_digest:
        own, other = file.plan.digest[:12], model.state_digest[:12]
        raise InvalidRequest(
            f"the reference's weights have the digest {other}, the file is of a model with {own}; give the model that was "
            "compressed as the reference."
        )


def open_original(file: OnnxFile, reference: Any, held: HeldOut) -> Model:
    """The model behind a file, opened on held-out examples, in batches of the file's size where that is fixed.

    Raises:
        InvalidRequest: it isn't that model.
    """
    rows = deployment.Session(file.body, file.target).batch_size
    whole = {name: value[:rows] for name, value in held.inputs.items()} if rows else None
    model = open_model(reference, first_rows(held), whole)
    refuse_another_original(file, model)
    return model


def certify_file(file: OnnxFile, model: Model, held: Trial, selection: Mapping[str, Any] | None = None) -> OnnxFile:
    """The file with its certificate, sealed.

    Raises:
        InvalidRequest: the file is of another model.
        NotCertified: the promise isn't kept.
        Unsupported: with its seal the file is larger than the target can take.
    """
    refuse_another_original(file, model)
    before, after = held.losses(file)
    circumstances = _circumstances(file, model, held, selection, (before, after))
    certificate = certificate_from_losses(before, after, held.promise, groups=held.held_out.groups, circumstances=circumstances)
    if not certificate.kept:
        main = certificate.lines[0]
        raise NotCertified(
            f"the {main.quantity} is {main.point:.4f} on {sample(certificate)} and at most {main.upper:.4f} at confidence "
            f"{1 - certificate.delta:g}; {certificate.promise:g} was promised: promise more, or compress less."
        )
    entry = {
        "format": 1,
        "statement": certificate.statement,
        "original": certificate.digests["original"][:16],
        "examples": certificate.digests["examples"][:16],
        "certificate": certificate_digest(certificate),
    }
    sealed = deployment.seal(file.body, entry)
    most = file.target.max_model_bytes
    if most and len(sealed) > most:
        raise Unsupported(
            f"the file takes {len(sealed):,} bytes with its seal, target '{file.target.name}' takes {most:,}; lower budget.bytes."
        )
    container = pack(sealed) if file.packed else b""
    sizes = replace(file.sizes, container=len(container))
    return replace(file, certificate=certificate, sealed=sealed, packed=container, sizes=sizes)


def boldest(plans: Sequence[Plan], build: Callable[[Plan], OnnxFile], model: Model, held: Trial) -> OnnxFile:
    """Fixed-sequence testing along a path from cautious to bold; the last file that keeps the promise, certified.

    Raises:
        NotCertified: the first plan already fails.
    """
    limit, delta = float(held.promise.risk_increase or 0.0), held.promise.delta
    digest = path_digest([plan_to_toml(plan) for plan in plans], limit=limit, delta=delta)
    files: list[OnnxFile] = []

    def test(plan: Plan) -> Callable[[float], float]:
        def upper(_: float) -> float:
            files.append(build(plan))
            return held.upper(files[-1])

        return upper

    walk = fixed_sequence((test(plan) for plan in plans), limit=limit, delta=delta)
    if walk.chosen is None:
        raise NotCertified(
            f"already the most cautious plan's increase of the risk is bounded by {walk.uppers[0]:.4f} only, {limit:g} was "
            "promised; promise more, or give more held-out examples."
        )
    chosen = with_candidates(files[walk.chosen], [candidate(file) for file in files])
    return certify_file(chosen, model, held, {**walk.record(), "path": digest, "plans": len(plans)})


def _circumstances(
    file: OnnxFile, model: Model, held: Trial, selection: Mapping[str, Any] | None, losses: tuple[np.ndarray, np.ndarray]
) -> Circumstances:
    """The circumstances that the certificate records."""
    dropped = f"{len(held.dropped)} held-out examples that compression had seen were dropped."
    assumptions = [dropped] if held.dropped else []
    if held.repeated:
        labels = f" {held.relabelled} of them had another label than the first, whose label stands." if held.relabelled else ""
        assumptions.append(
            f"{len(held.repeated)} held-out examples that equal an earlier one were dropped, {len(held.held_out)} are left: "
            f"equal examples are copies of one draw, and count once.{labels}"
        )
    assumptions += [] if held.held_out.groups is not None else [NO_GROUPS]
    assumptions += [ALONE] if deployment.quantizes_at_run(file.body) else []
    return Circumstances(
        assumptions=(*assumptions, *filter(None, [deployment.matches_target(file.target)])),
        valid_as="valid only if this is the only look at these held-out examples" if held.look is None else f"look {held.look}",
        selection=selection or {},
        environment={
            **deployment.environment(),
            "target": file.target.name,
            "session": json.dumps(dict(file.target.session)),
            "threads": "1",
        },
        digests={
            "file": hashlib.sha256(file.body).hexdigest(),
            "original": model.state_digest,
            "plan": hashlib.sha256(plan_to_toml(file.plan).encode()).hexdigest(),
            "examples": examples_digest(held.held_out.inputs, held.held_out.labels),
        },
        context={
            **_code_length(file, held, *losses),
            "dropped_as_seen": list(held.dropped),
            "dropped_as_repeated": list(held.repeated),
        },
    )


def _code_length(file: OnnxFile, held: Trial, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Code-length bounds on the risk of both networks; they hold together, and their difference bounds nothing."""
    if held.promise.risk != DEFAULT_RISK or held.held_out.groups is not None:
        return {}
    n, delta = len(before), held.promise.delta / 2
    bits = {"original": 8 * file.float_bytes, "file": description_bits(file.body) if file.packed else 8 * len(file.body)}
    errors = {"original": int(before.sum()), "file": int(after.sum())}
    bounds = {name: occam(errors[name], n, self_delimiting_bits(bits[name]), delta) for name in bits}
    return {
        "code_length_bounds": bounds,
        "code_length_bits": bits,
        "code_length_note": "generalization bounds from the files' lengths, vacuous near 1; their difference bounds nothing",
    }


def _outputs(model: Model, held_out: HeldOut) -> tuple[np.ndarray, ...]:
    """The original's outputs on all held-out examples."""
    n = len(held_out)
    batches: list[Batch] = [{name: value[i : i + CHUNK] for name, value in held_out.inputs.items()} for i in range(0, n, CHUNK)]
    return outputs(model, batches)
