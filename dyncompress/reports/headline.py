"""The main results, before and after compression: bytes that ship, accuracy, time of a run, and the certificate."""

from __future__ import annotations

import math
from typing import Any

from dyncompress.reports.certificate import errors_of, sample_text, verdict
from dyncompress.reports.table import number, percent
from dyncompress.types import OnnxFile, Speed

UNTIMED = "run dyncompress bench on the file to time it"


def headline(file: OnnxFile) -> list[str]:
    """Four sentences: on bytes, accuracy, time and certificate."""
    return [size_sentence(file), accuracy_sentence(file), time_sentence(file.speed), certificate_sentence(file)]


def size_sentence(file: OnnxFile) -> str:
    """The bytes that ship, of the container if there is one, else of the ONNX file, against those of the float32 file."""
    shipped = len(file.shipped)
    unpacked = f"; the ONNX file in the container takes {len(file.content):,}" if file.packed else ""
    return f"bytes: {file.float_bytes:,} -> {shipped:,} ({file.float_bytes / max(shipped, 1):.2f} times smaller{unpacked})"


def accuracy_sentence(file: OnnxFile) -> str:
    """Accuracy on labelled held-out examples; without labels the share of examples with the original's prediction."""
    rates = accuracy(file)
    if rates is not None:
        before, after, counts = rates
        return f"accuracy: {percent(before, 4)} -> {percent(after, 4)} ({counts})"
    share, where = agreement(file)
    if math.isnan(share):
        return f"outputs: the file's differ from the original's by {percent(file.parity.relative_error)} (RMS) on {where}"
    return f"agreement: the file predicts what the original does on {percent(share, 4)} of {where}"


def accuracy(file: OnnxFile) -> tuple[float, float, str] | None:
    """Accuracy before and after in [0, 1], and the counts of errors as text; None if the certificate counts no errors."""
    errors = None if file.certificate is None else errors_of(file.certificate)
    if file.certificate is None or errors is None:
        return None
    n = file.certificate.counts.get("examples", file.certificate.n)
    return 1 - errors[0] / n, 1 - errors[1] / n, f"{errors[0]:,} -> {errors[1]:,} errors on {sample_text(file.certificate)}"


def agreement(file: OnnxFile) -> tuple[float, str]:
    """Share of examples with the original's prediction (nan if outputs aren't scores), and the examples it was counted on."""
    certificate = file.certificate
    if certificate is not None and certificate.risk == "agreement":
        return 1 - certificate.lines[0].point, sample_text(certificate)
    return file.parity.agreement, f"{file.parity.n:,} calibration {file.parity.unit}"


def time_sentence(speed: Speed | None) -> str:
    """Milliseconds of a run before and after on this machine, or the reason why they weren't measured.

    Example:
        >>> time_sentence(Speed(0.002, 0.001, 2.0, 40, processor="Intel Xeon"))
        'time: 2 ms -> 1 ms a run, 2.00 times faster (measured here: Intel Xeon, 1 thread, 1 example a run, 40 runs in turn)'
    """
    if speed is None or speed.reason:
        return f"time: not measured; {UNTIMED if speed is None else speed.reason}"
    faster = times_faster(speed)
    return (
        f"time: {milliseconds(speed.before)} -> {milliseconds(speed.after)} a run, {faster} (measured here: {where_timed(speed)})"
    )


def times_faster(speed: Speed) -> str:
    """How many times faster, or slower, the shipped file runs."""
    return f"{speed.ratio:.2f} times faster" if speed.ratio >= 1 else f"{1 / speed.ratio:.2f} times slower"


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, as text.

    Example:
        >>> milliseconds(0.0012345), milliseconds(0.25)
        ('1.23 ms', '250 ms')
    """
    return f"{number(1e3 * seconds)} ms"


def where_timed(speed: Speed) -> str:
    """The processor, and the numbers of threads, examples of a run, and runs of a timing."""
    threads, examples, runs = (
        f"{n} {word}{'s' * (n != 1)}" for n, word in ((speed.threads, "thread"), (speed.batch, "example"), (speed.rounds, "run"))
    )
    return f"{speed.processor}, {threads}, {examples} a run, {runs} in turn"


def certificate_sentence(file: OnnxFile) -> str:
    """The certificate in one sentence, or that there is none."""
    if file.certificate is None:
        return "certificate: none; the file is not certified, since no held-out data was given"
    return f"certificate: {file.certificate.statement}{verdict(file.certificate)}"


def headline_json(file: OnnxFile) -> dict[str, Any]:
    """The content of `headline` as a JSON object; unknown values are null."""
    rates, (share, examples), speed = accuracy(file), agreement(file), file.speed
    milliseconds_ = {"before": None, "after": None, "reason": UNTIMED if speed is None else speed.reason}
    if speed is not None and not speed.reason:
        milliseconds_ = {"before": 1e3 * speed.before, "after": 1e3 * speed.after, "times_faster": speed.ratio}
        milliseconds_ |= {"processor": speed.processor, "threads": speed.threads, "batch": speed.batch, "rounds": speed.rounds}
    shipped = len(file.shipped)
    return {
        "bytes": {"before": file.float_bytes, "after": shipped, "times_smaller": file.float_bytes / max(shipped, 1)},
        "accuracy": None if rates is None else {"before": rates[0], "after": rates[1], "on": rates[2]},
        "agreement": {"share": share, "on": examples},
        "milliseconds": milliseconds_,
        "statement": certificate_sentence(file).partition(": ")[2],
    }
