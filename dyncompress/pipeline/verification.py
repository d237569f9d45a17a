"""The verb `verify`: is this the file that was certified, and does its certificate hold? Without torch and onnx."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dyncompress import deployment
from dyncompress.certificates.evidence import rounded
from dyncompress.certificates.promise import Circumstances, Promise, certificate_from_losses, packed_losses, recompute
from dyncompress.certificates.risks import AGREEMENT, known_risk, losses_of, outputs_for
from dyncompress.certificates.stored import from_json, read_json
from dyncompress.coding import is_packed, unpack
from dyncompress.deployment.certificate_file import CERTIFICATE, certificate_beside
from dyncompress.errors import Altered, InvalidRequest, NotCertified, Unsupported
from dyncompress.models.data import as_held_out, digests, load_npz
from dyncompress.recipe.text_files import read_bytes
from dyncompress.types import Certificate, HeldOut, OnnxFile, Target


def verify(file: str | Path | OnnxFile, *, certificate: str | Path | None = None, held_out: Any = None) -> Certificate:
    """Check the seal, recompute the certificate from its evidence and, with `held_out`, run the file on the examples again.

    Args:
        file: a sealed file, or the path of one or of its container.
        certificate: path of one; None: the one the value carries; beside `small.onnx`, `small.certificate.json`, else
            `certificate.json`.
        held_out: the examples it was certified on, labels included; their digest must be the certificate's.

    Returns:
        the certificate; where this processor computes other losses on some examples, the one that holds here, with
        `context["examples_that_differ"]`.

    Raises:
        Altered: file or certificate isn't what was sealed.
        InvalidRequest: there is no certificate, or these are other examples.
        NotCertified: the promise isn't kept on this processor.

    Example:
        >>> import dyncompress, torch
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(8, 3)), torch.randn(264, 8)
        >>> file = dyncompress.compress(net, calibration=x[:64], held_out=x[64:])
        >>> verify(file).kept
        True
    """
    content = file.content if isinstance(file, OnnxFile) else _read(Path(file))
    content = unpack(content) if is_packed(content) else content
    body, entry = deployment.unseal(content)
    stated = file.certificate if isinstance(file, OnnxFile) and certificate is None else None
    if stated is None:
        beside = certificate or (None if isinstance(file, OnnxFile) else _beside(Path(file)))
        if beside is None:
            raise InvalidRequest("there is no certificate to verify; give certificate=path.")
        stated = from_json(_read(Path(beside)).decode("utf-8", "replace"))
    if stated.digests.get("file") != hashlib.sha256(body).hexdigest():
        raise Altered("the certificate is of another file (another digest); fetch the two together again.")
    if entry.get("certificate") != certificate_digest(stated) or entry.get("statement") != stated.statement:
        raise Altered("the seal names another certificate than this one; fetch the two together again.")
    recompute(stated)
    return stated if held_out is None else _run_again(body, stated, held_out)


def _beside(file: Path) -> Path:
    """The certificate beside a file: the one of its name, else the one of its directory.

    Raises:
        InvalidRequest: there is neither.
    """
    present = [path for path in (certificate_beside(file), file.with_name(CERTIFICATE)) if path.is_file()]
    if not present:
        raise InvalidRequest(
            f"{file}: neither {certificate_beside(file).name} nor {CERTIFICATE} lies beside it; give certificate=path "
            "(--certificate FILE)."
        )
    return present[0]


def certificate_digest(certificate: Certificate) -> str:
    """The sha256 of all fields of a certificate, as written in the seal."""
    return hashlib.sha256(json.dumps(asdict(certificate), sort_keys=True).encode()).hexdigest()


def examples_digest(inputs: Mapping[str, np.ndarray], labels: np.ndarray | None) -> str:
    """The sha256 of all examples in order, labels included."""
    text = "".join(digests([inputs]))
    tail = b"" if labels is None else np.ascontiguousarray(labels).tobytes()
    return hashlib.sha256(text.encode() + tail).hexdigest()


def without_rows(held_out: HeldOut, rows: Sequence[int]) -> HeldOut:
    """The held-out examples without these rows."""
    stay = np.setdiff1d(np.arange(len(held_out)), np.asarray(rows, dtype=np.int64))
    inputs = {name: value[stay] for name, value in held_out.inputs.items()}
    labels, groups = (None if values is None else values[stay] for values in (held_out.labels, held_out.groups))
    return HeldOut(inputs, labels, groups)


def _certified_examples(held_out: HeldOut, certificate: Certificate) -> HeldOut:
    """The certified examples among those given: all, or without those dropped as seen, or also without those dropped as repeated.

    Raises:
        Altered: the certificate's rows aren't integers.
        InvalidRequest: no such selection has the certificate's digest.
    """
    seen, repeated = (certificate.context.get(key) or [] for key in ("dropped_as_seen", "dropped_as_repeated"))
    if not all(isinstance(rows, list) and all(isinstance(row, int) for row in rows) for rows in (seen, repeated)):
        raise Altered("the certificate names dropped examples by something else than numbers; get the certificate again.")
    for examples in (held_out, without_rows(held_out, seen), without_rows(held_out, [*seen, *repeated])):
        if len(examples) and examples_digest(examples.inputs, examples.labels) == certificate.digests.get("examples"):
            return examples
    raise InvalidRequest("these aren't the certificate's held-out examples (another digest); give the very same ones.")


def _run_again(body: bytes, certificate: Certificate, data: Any) -> Certificate:
    """The file's losses on the same examples, on this machine, and the certificate that they give."""
    risk = known_risk(certificate.risk)
    if risk is None or certificate.risk == AGREEMENT:
        raise Unsupported(
            f"the risk '{certificate.risk}' needs the user's function or the original network; verify without held-out data to "
            "check the evidence."
        )
    session = deployment.Session(body, _target(certificate))
    names = session.input_names
    held_out = _certified_examples(
        as_held_out(load_npz(data) if isinstance(data, str | Path) else data, names, unchecked=True), certificate
    )
    after = losses_of(risk, outputs_for(risk, session.output_names, session.run(held_out.inputs)), held_out.labels)
    before, file, groups = packed_losses(certificate)
    differ = int((rounded(after, binary=risk.binary) != file).sum())
    if not differ:
        return certificate
    promise = Promise(certificate.risk, certificate.delta, certificate.promise, certificate.evidence.get("method", ""))
    circumstances = Circumstances(
        valid_as=certificate.valid_as,
        selection=certificate.selection,
        environment=deployment.environment(),
        digests=certificate.digests,
        context={**certificate.context, "examples_that_differ": differ},
    )
    again = certificate_from_losses(before, after, promise, groups=groups, circumstances=circumstances)
    if not again.kept:
        raise NotCertified(f"{differ} examples differ on this processor, and the promise isn't kept here: {again.statement}")
    return replace(again, assumptions=certificate.assumptions)


def _target(certificate: Certificate) -> Target:
    """The part of the target that running the file as it was certified needs."""
    environment = certificate.environment
    session = read_json(environment.get("session", "{}"), "the certificate's entry environment.session")
    if not isinstance(session, dict):
        raise Altered("the certificate's entry environment.session isn't a table of options; get the certificate again.")
    return Target(name=environment.get("target", ""), summary="", verified="schema", session=session)


def _read(path: Path) -> bytes:
    return read_bytes(path, str(path))
