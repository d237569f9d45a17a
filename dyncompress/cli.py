"""The command line: words to verbs, results to standard output, messages and progress to standard error, errors to exit codes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dyncompress import __version__
from dyncompress.arguments import parse, parser, settings
from dyncompress.delivery import check_writable, deliver
from dyncompress.errors import DyncompressError, InvalidRequest
from dyncompress.progress import SILENT, Progress, on_standard_error
from dyncompress.reports import (
    Table,
    as_json,
    as_text,
    certificate_json,
    certificate_text,
    layer_table,
    left_alone_sentence,
    number,
    plain_json,
    profile_table,
)
from dyncompress.shipped import recipe_files, target_files
from dyncompress.sources import load_data

MODEL = "model.onnx"
CERTIFICATE = "certificate.json"
PROFILE = "profile.json"
PACKED = "model.dync"


@dataclass(frozen=True)
class Answer:
    """What a command found: `text` for people, `data` for machines."""

    text: str
    data: dict[str, Any]


def entry() -> int:
    """The command itself: standard output is the answer's alone, and what native libraries print there goes where errors go.

    HiGHS, for one, prints a line now and then, and `--json` is read by machines.
    """
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(2, 1)
    return main()


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        words: the arguments; None: those of the process.

    Returns:
        the exit code: 0 done, 2 usage or unreadable input, 3 the budget can't be met, 4 not certified or promise not kept,
        5 file altered, 6 outputs differ.
    """
    try:
        args = parse(words)
        if args.version or args.command is None:
            print(f"dyncompress {__version__}" if args.version else parser().format_help())
            return 0
        answer = COMMANDS[args.command](args, SILENT if args.quiet else on_standard_error())
    except DyncompressError as error:
        print(f"dyncompress: {error}", file=sys.stderr)
        return error.exit_code
    try:
        print(json.dumps(plain_json(answer.data), allow_nan=False) if args.json else answer.text, flush=True)
    except BrokenPipeError:  # whoever reads has read enough (`| head`); nothing may be flushed there any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# ---------------------------------------------------------------- the verbs
def _compress(args: argparse.Namespace, progress: Progress) -> Answer:
    check_writable(args.out)
    from dyncompress.jobs import compressed

    return _finished(args.out, *compressed(args, progress))


def _demo(args: argparse.Namespace, progress: Progress) -> Answer:
    check_writable(args.out)
    from dyncompress.demo import run
    from dyncompress.store import profile_to_json

    file, profile, _ = run(progress)
    return _finished(args.out, file, profile, profile_to_json(profile))


def _finished(out: Path, file: Any, profile: Any, profile_text: str | None) -> Answer:
    """Deliver the files of a run, and tell."""
    from dyncompress.certificates.stored import to_json
    from dyncompress.planfile import plan_to_toml
    from dyncompress.reports import page

    files: dict[str, bytes | str] = {} if profile_text is None else {PROFILE: profile_text}
    files["plan.toml"] = plan_to_toml(file.plan)
    files["report.html"] = page(file, profile)
    if file.certificate is not None:
        files[CERTIFICATE] = to_json(file.certificate)
    if file.packed:
        files[PACKED] = file.packed
    files[MODEL] = file.content
    paths = deliver(out, files, stale=(PROFILE, CERTIFICATE, PACKED))  # of an earlier run, they would describe another file
    layers, estimates = (profile.layers, profile.estimates) if profile is not None else ((), {})
    where = "files: " + ", ".join(str(path) for path in paths.values())
    text = "\n\n".join((layer_table(file.plan, layers, estimates).plain(), as_text(file), where))
    return Answer(text, as_json(file, paths))


def _measure(args: argparse.Namespace, progress: Progress) -> Answer:
    if args.out is not None:
        check_writable(args.out)
    from dyncompress.jobs import measured
    from dyncompress.profiling import share_left_alone

    profile, text = measured(args, progress)
    paths = deliver(args.out, {PROFILE: text}) if args.out is not None else {}
    estimates = {name: {layer: asdict(e) for layer, e in found.items()} for name, found in profile.estimates.items()}
    shares = share_left_alone(profile.layers, profile.reasons)
    alone = left_alone_sentence(shares, profile.reasons)
    lines = [profile_table(profile).plain(), alone, *(f"note: {note}" for note in profile.notes), *map(str, paths.values())]
    data = {"bytes": profile.float_bytes, "macs": profile.macs, "left_alone": {**shares, "layers": profile.reasons}}
    return Answer("\n".join(lines), {**data, "estimates": estimates, "notes": profile.notes, "paths": paths})


def _probe(args: argparse.Namespace, progress: Progress) -> Answer:
    check_writable(args.out.parent)
    if args.out.is_dir():
        raise InvalidRequest(f"--out {args.out}: it is a directory; name a file, e.g. {args.out / 'run.npz'}.")
    from dyncompress.jobs import probed
    from dyncompress.recording import save_trajectory

    found = probed(args, progress)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    path = save_trajectory(found, args.out)
    text = "\n".join((f"{path}: {len(found.steps)} records of {len(found.motion)} layers", *(f"note: {n}" for n in found.notes)))
    data = {"path": path, "records": len(found.steps), "learning_rate": found.learning_rate, "notes": found.notes}
    return Answer(text, {**data, "digest": found.digest})


def _rank(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.jobs import ranked
    from dyncompress.reports.ranking import ranking_json, ranking_text

    found = ranked(args, progress)
    return Answer(ranking_text(found), ranking_json(found))


def _plan(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.pipeline import allocate
    from dyncompress.planfile import plan_to_toml
    from dyncompress.recipe_file import recipe_for
    from dyncompress.store import profile_from_json

    if args.out is not None:
        check_writable(args.out.parent)
    profile = profile_from_json(_inside(args.profile, PROFILE))
    recipe = recipe_for(args.recipe, profile, settings(args.set))
    plan = allocate(profile, recipe=recipe)
    paths = deliver(args.out.parent, {args.out.name: plan_to_toml(plan)}) if args.out is not None else {}
    shares = {name: plan.share_left_alone.get(name, 0.0) for name in ("weights", "macs")}
    costs = ", ".join(f"{name} {number(value, 6)}" for name, value in plan.cost.items())
    alone = left_alone_sentence(plan.share_left_alone, plan.reasons)
    notes = "".join(f"\nnote: {note}" for note in plan.notes)
    predicted = f"predicted: {costs}; distortion {number(plan.distortion)}\n{alone}{notes}"
    text = "\n\n".join((layer_table(plan, profile.layers, profile.estimates).plain(), predicted))
    data = {"predicted": {**plan.cost, "distortion": plan.distortion, "gap": plan.gap}, "left_alone": shares, "paths": paths}
    return Answer(text, {**data, "notes": plan.notes})


def _verify(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.verification import verify

    path = _inside(args.file, MODEL)
    held_out = None if args.held_out is None else load_data(args.held_out, "held-out data")
    found = verify(path, certificate=args.certificate, held_out=held_out)
    differ = found.context.get("examples_that_differ", 0)
    how = "recomputed from the stored losses" if held_out is None else f"run again here, {differ} examples differ"
    text = f"verified: {path} is the file that was certified; {how}\n{certificate_text(found)}"
    return Answer(text, {"verified": True, "file": path, "certificate": certificate_json(found)})


def _bench(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.jobs import timed

    files = {str(path): path.read_bytes() for path in (_inside(p, MODEL) for p in (args.file, *args.against))}
    timings = timed(files, args)
    header = ("file", "bytes", "median ms", "p10", "p90", "relative")
    rows = tuple(
        (name, f"{len(files[name]):,}", *(f"{1e3 * s:.3f}" for s in (t.median, t.p10, t.p90)), f"{t.relative:.2f}")
        for name, t in timings.items()
    )
    return Answer(Table(header, rows, frozenset(header[1:])).plain(), {name: asdict(t) for name, t in timings.items()})


def _pack(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.coding import pack

    source = _inside(args.file, MODEL)
    return _repacked(source, args.out or source.with_suffix(".dync"), pack)


def _unpack(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.coding import unpack

    source = _inside(args.file, MODEL)
    return _repacked(source, args.out or source.with_suffix(".onnx"), unpack)


def _repacked(source: Path, out: Path, turn: Callable[[bytes], bytes]) -> Answer:
    """One file turned into another."""
    check_writable(out.parent)
    if out.is_dir() or (out.exists() and out.samefile(source)):
        raise InvalidRequest(f"--out {out}: it is {'a directory' if out.is_dir() else 'the file itself'}; name another file.")
    before = source.read_bytes()
    after = turn(before)
    path = deliver(out.parent, {out.name: after})[out.name]
    text = f"{path}: {len(after):,} bytes, of {source}: {len(before):,} bytes"
    return Answer(text, {"from": source, "from_bytes": len(before), "file": path, "bytes": len(after)})


# ---------------------------------------------------------------- what is shipped
def _recipes(args: argparse.Namespace, progress: Progress) -> Answer:
    return _listed(args, recipe_files())


def _targets(args: argparse.Namespace, progress: Progress) -> Answer:
    if args.verb != "check":
        return _listed(args, target_files())
    from dyncompress.recipe_file import load_target

    found = {name: load_target(name) for name in args.names or target_files()}
    rows = tuple((name, target.verified, target.summary) for name, target in found.items())
    data = {name: asdict(target) for name, target in found.items()}
    return Answer(Table(("target", "verified by", "summary"), rows).plain(), data)


def _listed(args: argparse.Namespace, files: dict[str, Path]) -> Answer:
    """Names and summaries, or the text of the named files."""
    if args.verb == "show":
        if not args.names:
            raise InvalidRequest(f"{args.command} show: name one of {', '.join(files)}.")
        paths = {name: _shipped(name, files, args.command) for name in args.names}
        texts = {name: path.read_text() for name, path in paths.items()}
        return Answer("\n".join(texts.values()), {name: tomllib.loads(text) for name, text in texts.items()})
    summaries = {name: str(tomllib.loads(path.read_text()).get("summary", "")) for name, path in files.items()}
    return Answer(Table(("name", "summary"), tuple(summaries.items())).plain(), summaries)


def _shipped(name: str, files: dict[str, Path], kind: str) -> Path:
    """The file of a shipped name, or the path itself."""
    if name in files:
        return files[name]
    if Path(name).is_file():
        return Path(name)
    from dyncompress.strict import nearest

    raise InvalidRequest(f"{kind} show: there is no '{name}'{nearest(name, files)}")


def _inside(path: Path, name: str) -> Path:
    """The file, or the one of that name in the directory.

    Raises:
        InvalidRequest: there is no such file.
    """
    found = path / name if path.is_dir() else path
    if not found.is_file():
        raise InvalidRequest(f"'{found}': there is no such file.")
    return found


COMMANDS: dict[str, Callable[[argparse.Namespace, Progress], Answer]] = {
    "demo": _demo,
    "compress": _compress,
    "measure": _measure,
    "probe": _probe,
    "rank": _rank,
    "plan": _plan,
    "verify": _verify,
    "bench": _bench,
    "pack": _pack,
    "unpack": _unpack,
    "recipes": _recipes,
    "targets": _targets,
}

if __name__ == "__main__":
    sys.exit(entry())
