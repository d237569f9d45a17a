"""The command line: words to verbs, results to standard output, messages and progress to standard error, errors to exit codes."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dyncompress import __version__
from dyncompress.cli import streams
from dyncompress.cli.arguments import amounts, parse, parser, settings
from dyncompress.cli.exit_codes import TRACEBACK, ending
from dyncompress.cli.progress_bars import on_standard_error
from dyncompress.cli.sources import load_data
from dyncompress.coding.whole_files import check_writable, check_writable_file, deliver, made
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.bundled_files import recipe_files, target_files
from dyncompress.recipe.text_files import is_directory, is_file, read_text, toml
from dyncompress.reports import (
    Table,
    as_json,
    as_text,
    certificate_json,
    certificate_text,
    layer_table,
    left_alone_sentence,
    measures_sentence,
    plain_json,
    predicted_sentence,
    profile_table,
)
from dyncompress.reports.output_files import MODEL, PROFILE, RESULTS, write_directory
from dyncompress.types.progress import SILENT, Progress


@dataclass(frozen=True)
class Answer:
    """What a command found: `text` for people, `data` for machines."""

    text: str
    data: dict[str, Any]


def entry() -> int:
    """The command itself, with the streams of its process set up and left so that nothing else ever appears on them."""
    streams.separate()
    code = main()
    return streams.flushed(code)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command. Whatever happens, the answer or nothing goes to standard output, and one sentence to standard error.

    Args:
        words: the arguments; None: those of the process.

    Returns:
        the exit code: 0 done, 2 usage or unreadable input (the user's own code that fails is such input), 3 the budget can't be
        met, 4 not certified or promise not kept, 5 file altered, 6 outputs differ, 70 an error of dyncompress itself, 71 not
        enough memory, 74 the answer can't be written to standard output, 130 interrupted (Ctrl-C).
    """
    try:
        with redirect_stdout(sys.stderr):  # what the user's code and libraries print isn't the answer
            text = _answered(words)
    except BaseException as error:
        code, sentence = ending(error)
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            streams.tell("".join(traceback.format_exception(error)).rstrip())
        streams.tell(f"dyncompress: {sentence}")
        return code
    return streams.answer(text)


def _answered(words: Sequence[str] | None) -> str:
    """What goes to standard output."""
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            args = parse(words)
    except SystemExit:  # argparse's way to end after --help
        return shown.getvalue().rstrip("\n")
    if args.version or args.command is None:
        return f"dyncompress {__version__}" if args.version else parser().format_help()
    answer = COMMANDS[args.command](args, SILENT if args.quiet else on_standard_error())
    return json.dumps(plain_json(answer.data), allow_nan=False) if args.json else answer.text


# ---------------------------------------------------------------- the verbs
def _compress(args: argparse.Namespace, progress: Progress) -> Answer:
    check_writable(args.out)
    from dyncompress.cli.early_checks import check_words

    check_words(args)
    from dyncompress.cli.requests import compressed

    return _finished(args.out, *compressed(args, progress))


def _demo(args: argparse.Namespace, progress: Progress) -> Answer:
    check_writable(args.out)
    from dyncompress.cli.early_checks import refuse_overwriting

    refuse_overwriting(args, [args.out / name for name in RESULTS])
    from dyncompress.cli.demo import run

    return _finished(args.out, run(progress)[0], None)


def _finished(out: Path, file: Any, profile_text: str | None) -> Answer:
    """Write the files of a run, and tell what came out, what the user came for first."""
    paths = write_directory(file, out, profile_text)
    layers, estimates = (file.profile.layers, file.profile.estimates) if file.profile is not None else ((), {})
    where = "files: " + ", ".join(str(path) for path in paths.values())
    text = "\n\n".join((as_text(file), layer_table(file.plan, layers, estimates).plain(), where))
    return Answer(text, as_json(file, paths))


def _measure(args: argparse.Namespace, progress: Progress) -> Answer:
    if args.out is not None:
        check_writable(args.out)
    from dyncompress.cli.early_checks import check_words

    check_words(args)
    from dyncompress.allocation.plan import share_left_alone
    from dyncompress.cli.requests import measured

    profile, text = measured(args, progress)
    paths = deliver(args.out, {PROFILE: text}) if args.out is not None else {}
    estimates = {name: {layer: asdict(e) for layer, e in found.items()} for name, found in profile.estimates.items()}
    shares = share_left_alone(profile.layers, profile.reasons)
    alone = left_alone_sentence(shares, profile.reasons)
    told = filter(None, [alone, measures_sentence(profile), *(f"note: {note}" for note in profile.notes)])
    lines = [profile_table(profile).plain(), "", *told, *map(str, paths.values())]
    data = {"bytes": profile.float_bytes, "macs": profile.macs, "left_alone": {**shares, "layers": profile.reasons}}
    data |= {"distortion_unit": profile.unit, "sources": profile.source}
    return Answer("\n".join(lines), {**data, "estimates": estimates, "notes": profile.notes, "paths": paths})


def _probe(args: argparse.Namespace, progress: Progress) -> Answer:
    check_writable_file(args.out)
    from dyncompress.cli.early_checks import check_sources, refuse_overwriting

    check_sources(args)
    refuse_overwriting(args, [args.out])
    from dyncompress.cli.requests import probed
    from dyncompress.recording import save_trajectory

    found = probed(args, progress)
    with made(args.out.parent):
        path = save_trajectory(found, args.out)
    text = "\n".join((f"{path}: {len(found.steps)} records of {len(found.motion)} layers", *(f"note: {n}" for n in found.notes)))
    data = {"path": path, "records": len(found.steps), "learning_rate": found.learning_rate, "notes": found.notes}
    return Answer(text, {**data, "digest": found.digest})


def _rank(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.cli.early_checks import check_ranking

    check_ranking(args)
    from dyncompress.cli.requests import ranked
    from dyncompress.reports.ranking import ranking_json, ranking_text

    found = ranked(args, progress)
    return Answer(ranking_text(found), ranking_json(found))


def _plan(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.cli.early_checks import refuse_overwriting
    from dyncompress.recipe.plan_file import plan_to_toml
    from dyncompress.recipe.profile_file import profile_from_json
    from dyncompress.recipe.toml_files import recipe_for

    source = _inside(args.profile, PROFILE)
    if args.out is not None:
        check_writable_file(args.out)
        refuse_overwriting(args, [args.out])
    profile = profile_from_json(source)
    recipe = recipe_for(args.recipe, profile, settings(args.set))
    from dyncompress.pipeline.verbs import allocate

    plan = allocate(profile, recipe=recipe)
    paths = deliver(args.out.parent, {args.out.name: plan_to_toml(plan)}) if args.out is not None else {}
    shares = {name: plan.share_left_alone.get(name, 0.0) for name in ("weights", "macs")}
    alone = left_alone_sentence(plan.share_left_alone, plan.reasons)
    notes = "".join(f"\nnote: {note}" for note in plan.notes)
    predicted = f"{predicted_sentence(plan, profile)}\n{alone}{notes}"
    text = "\n\n".join((layer_table(plan, profile.layers, profile.estimates).plain(), predicted))
    data = {"predicted": {**plan.cost, "distortion": plan.distortion, "gap": plan.gap}, "left_alone": shares, "paths": paths}
    return Answer(text, {**data, "notes": plan.notes})


def _pareto(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.cli.early_checks import refuse_overwriting
    from dyncompress.pipeline.pareto import pareto
    from dyncompress.recipe.profile_file import profile_from_json
    from dyncompress.recipe.toml_files import recipe_for
    from dyncompress.reports.pareto import drawn_as, pareto_json, pareto_text

    if args.out is not None:
        check_writable_file(args.out)
        refuse_overwriting(args, [args.out])
    write = None if args.out is None else drawn_as(args.out)
    profile = profile_from_json(_inside(args.profile, PROFILE))
    budgets = [{args.of: value} for value in amounts(args.budgets)]
    found = pareto(profile, budgets, of=args.of, recipe=recipe_for(args.recipe, profile, settings(args.set)))
    paths = {} if args.out is None or write is None else deliver(args.out.parent, {args.out.name: write(found)})
    text = "\n".join((pareto_text(found), *map(str, paths.values())))
    return Answer(text, {**pareto_json(found), "paths": paths})


def _verify(args: argparse.Namespace, progress: Progress) -> Answer:
    path = _inside(args.file, MODEL)
    held_out = None if args.held_out is None else load_data(args.held_out, "held-out data")
    from dyncompress.pipeline.verification import verify

    found = verify(path, certificate=args.certificate, held_out=held_out)
    differ = found.context.get("examples_that_differ", 0)
    how = "recomputed from the stored losses" if held_out is None else f"run again here, {differ} examples differ"
    text = f"verified: {path} is the file that was certified; {how}\n{certificate_text(found)}"
    return Answer(text, {"verified": True, "file": path, "certificate": certificate_json(found)})


def _bench(args: argparse.Namespace, progress: Progress) -> Answer:
    from dyncompress.cli.early_checks import check_sources

    files = {str(path): _onnx(path) for path in (_inside(p, MODEL) for p in (args.file, *args.against))}
    check_sources(args)
    from dyncompress.cli.requests import timed

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
    check_writable_file(out)
    if out.exists() and out.samefile(source):
        raise InvalidRequest(f"--out {out}: it is the file itself; name another file.")
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
    from dyncompress.recipe.toml_files import load_target

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
        texts = {name: read_text(path, f"'{name}'") for name, path in paths.items()}
        return Answer("\n".join(texts.values()), {name: toml(text, f"'{name}'") for name, text in texts.items()})
    summaries = {name: str(toml(read_text(path, name), name).get("summary", "")) for name, path in files.items()}
    return Answer(Table(("name", "summary"), tuple(summaries.items())).plain(), summaries)


def _shipped(name: str, files: dict[str, Path], kind: str) -> Path:
    """The file of a shipped name, or the path itself."""
    if name in files:
        return files[name]
    if is_file(Path(name), f"{kind} show '{name}'"):
        return Path(name)
    from dyncompress.errors import nearest

    raise InvalidRequest(f"{kind} show: there is no '{name}'{nearest(name, files)}")


def _inside(path: Path, name: str) -> Path:
    """The file, or the one of that name in the directory.

    Raises:
        InvalidRequest: there is no such file.
    """
    found = path / name if is_directory(path) else path
    if not is_file(found, f"'{path}'"):
        raise InvalidRequest(f"'{found}': there is no such file.")
    return found


def _onnx(path: Path) -> bytes:
    """The bytes of an ONNX file that is whole.

    Raises:
        InvalidRequest: it is something else.
    """
    from dyncompress.coding import is_packed
    from dyncompress.coding.external import refuse_external
    from dyncompress.coding.skeleton import is_model

    content = path.read_bytes()
    if is_packed(content):
        raise InvalidRequest(f"'{path}' is a container; take the ONNX file out of it with `dyncompress unpack {path}`.")
    if not is_model(content):
        raise InvalidRequest(f"'{path}' is truncated or no ONNX file; name a model.onnx.")
    refuse_external(content, f"'{path}'")
    return content


COMMANDS: dict[str, Callable[[argparse.Namespace, Progress], Answer]] = {
    "demo": _demo,
    "compress": _compress,
    "measure": _measure,
    "probe": _probe,
    "rank": _rank,
    "plan": _plan,
    "pareto": _pareto,
    "verify": _verify,
    "bench": _bench,
    "pack": _pack,
    "unpack": _unpack,
    "recipes": _recipes,
    "targets": _targets,
}
