"""The commands about a finished file: verify, time, pack and convert it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dyncompress.cli.results import Result, input_file, read_onnx
from dyncompress.cli.sources import load_data
from dyncompress.coding.whole_files import check_writable_file, deliver
from dyncompress.deployment.conversion import CONVERSIONS, check_place
from dyncompress.errors import InvalidRequest
from dyncompress.reports import Table, certificate_json, certificate_text
from dyncompress.reports.output_files import MODEL
from dyncompress.types.progress import Progress


def verify(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress verify`: whether a file is the one that was certified, and its certificate."""
    path = input_file(args.file, MODEL)
    held_out = None if args.held_out is None else load_data(args.held_out, "held-out data")
    from dyncompress.pipeline.verification import verify

    certificate = verify(path, certificate=args.certificate, held_out=held_out)
    differ = certificate.context.get("examples_that_differ", 0)
    how = "recomputed from the stored losses" if held_out is None else f"run again here, {differ} examples differ"
    text = f"verified: {path} is the file that was certified; {how}\n{certificate_text(certificate)}"
    return Result(text, {"verified": True, "file": path, "certificate": certificate_json(certificate)})


def bench(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress bench`: the times of one or several files."""
    from dyncompress.cli.early_checks import check_sources

    files = {str(path): read_onnx(path) for path in (input_file(p, MODEL) for p in (args.file, *args.against))}
    check_sources(args)
    from dyncompress.cli.requests import time_files

    timings = time_files(files, args)
    header = ("file", "bytes", "median ms", "p10", "p90", "relative")
    rows = tuple(
        (name, f"{len(files[name]):,}", *(f"{1e3 * s:.3f}" for s in (t.median, t.p10, t.p90)), f"{t.relative:.2f}")
        for name, t in timings.items()
    )
    return Result(Table(header, rows, frozenset(header[1:])).plain(), {name: asdict(t) for name, t in timings.items()})


def pack(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress pack`: write the container of an ONNX file."""
    from dyncompress.coding import pack

    source = input_file(args.file, MODEL)
    return _repacked(source, args.out or source.with_suffix(".dync"), pack)


def unpack(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress unpack`: write the ONNX file of a container."""
    from dyncompress.coding import unpack

    source = input_file(args.file, MODEL)
    return _repacked(source, args.out or source.with_suffix(".onnx"), unpack)


def convert(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress convert`: write a file in another format."""
    args.file = source = input_file(args.file, MODEL)
    suffix = CONVERSIONS[args.to].suffix
    check_place(args.out, suffix)
    from dyncompress.cli.early_checks import check_sources, refuse_overwriting

    check_sources(args)
    if suffix:
        refuse_overwriting(args, [args.out])
    from dyncompress.pipeline.conversion import convert

    with progress.phase(f"convert to {args.to}"):
        converted = convert(source, args.to, inputs=None if args.data is None else load_data(args.data, "data"))
    if not suffix:
        refuse_overwriting(args, [args.out / name for name in converted.files])
    sizes = {path: path.stat().st_size for path in converted.save(args.out)}
    lines = [f"{path}: {size:,} bytes" for path, size in sizes.items()]
    data = {
        "from": source,
        "format": args.to,
        "files": {str(path): size for path, size in sizes.items()},
        "notes": converted.notes,
    }
    return Result("\n".join((*lines, *(f"note: {note}" for note in converted.notes))), data)


def _repacked(source: Path, out: Path, conversion: Callable[[bytes], bytes]) -> Result:
    """Write the result of a conversion of one file to another."""
    check_writable_file(out)
    if out.exists() and out.samefile(source):
        raise InvalidRequest(f"--out {out}: it is the file itself; name another file.")
    before = source.read_bytes()
    after = conversion(before)
    path = deliver(out.parent, {out.name: after})[out.name]
    text = f"{path}: {len(after):,} bytes, of {source}: {len(before):,} bytes"
    return Result(text, {"from": source, "from_bytes": len(before), "file": path, "bytes": len(after)})
