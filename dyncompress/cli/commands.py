"""The commands: each calls a verb and prints its result to standard output; messages and progress go to standard error."""

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
from dyncompress.cli.arguments import parse, parser
from dyncompress.cli.exit_codes import DONE, REFUSED, TRACEBACK, code_and_sentence
from dyncompress.cli.option_values import amounts, settings
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
class Result:
    """The result of a command.

    Attributes:
        text: for people.
        data: for machines, printed by `--json`.
        code: exit code.
    """

    text: str
    data: dict[str, Any]
    code: int = DONE


def entry() -> int:
    """Run the command of the process with its standard streams set up, and return the exit code."""
    streams.set_up()
    code = main()
    streams.flush()
    return code


def main(words: Sequence[str] | None = None) -> int:
    """Run one command: print its result to standard output, or one sentence about an error to standard error.

    Args:
        words: the arguments; None: those of the process.

    Returns:
        The exit code: 0 done, 1 the target refuses the file, 2 usage or unreadable input (an error in the user's own code
        included), 3 the budget can't be met, 4 not certified or promise not kept, 5 file altered, 6 outputs differ, 70 an error
        of dyncompress itself, 71 not enough memory, 74 the answer can't be written to standard output, 130 interrupted (Ctrl-C).
    """
    try:
        with redirect_stdout(sys.stderr):  # what the user's code and libraries print isn't the result
            text, done = _output(words)
    except BaseException as error:
        code, sentence = code_and_sentence(error)
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            streams.print_message("".join(traceback.format_exception(error)).rstrip())
        streams.print_message(f"dyncompress: {sentence}")
        return code
    return streams.print_result(text) or done


def _output(words: Sequence[str] | None) -> tuple[str, int]:
    """Run a command and return the text for standard output, and the exit code."""
    help_text = io.StringIO()
    try:
        with redirect_stdout(help_text):
            args = parse(words)
    except SystemExit:  # argparse raises it after --help
        return help_text.getvalue().rstrip("\n"), DONE
    if args.version or args.command is None:
        return f"dyncompress {__version__}" if args.version else parser().format_help(), DONE
    result = COMMANDS[args.command](args, SILENT if args.quiet else on_standard_error())
    return json.dumps(plain_json(result.data), allow_nan=False) if args.json else result.text, result.code


# ---------------------------------------------------------------- the verbs
def _compress(args: argparse.Namespace, progress: Progress) -> Result:
    check_writable(args.out)
    from dyncompress.cli.early_checks import check_arguments

    check_arguments(args)
    from dyncompress.cli.requests import compress_model

    return _written(args.out, *compress_model(args, progress))


def _demo(args: argparse.Namespace, progress: Progress) -> Result:
    check_writable(args.out)
    from dyncompress.cli.early_checks import refuse_overwriting

    refuse_overwriting(args, [args.out / name for name in RESULTS])
    from dyncompress.cli.demo import run

    return _written(args.out, run(progress)[0], None)


def _written(out: Path, file: Any, profile_text: str | None) -> Result:
    """Write the files of a run, and describe the ONNX file, most important numbers first."""
    paths = write_directory(file, out, profile_text)
    layers, estimates = (file.profile.layers, file.profile.estimates) if file.profile is not None else ((), {})
    where = "files: " + ", ".join(str(path) for path in paths.values())
    text = "\n\n".join((as_text(file), layer_table(file.plan, layers, estimates).plain(), where))
    return Result(text, as_json(file, paths))


def _measure(args: argparse.Namespace, progress: Progress) -> Result:
    if args.out is not None:
        check_writable(args.out)
    from dyncompress.cli.early_checks import check_arguments

    check_arguments(args)
    from dyncompress.allocation.plan import share_left_alone
    from dyncompress.cli.requests import measure_model

    profile, text = measure_model(args, progress)
    paths = deliver(args.out, {PROFILE: text}) if args.out is not None else {}
    estimates = {name: {layer: asdict(e) for layer, e in by_layer.items()} for name, by_layer in profile.estimates.items()}
    shares = share_left_alone(profile.layers, profile.reasons)
    alone = left_alone_sentence(shares, profile.reasons)
    sentences = filter(None, [alone, measures_sentence(profile), *(f"note: {note}" for note in profile.notes)])
    lines = [profile_table(profile).plain(), "", *sentences, *map(str, paths.values())]
    data = {"bytes": profile.float_bytes, "macs": profile.macs, "left_alone": {**shares, "layers": profile.reasons}}
    data |= {"distortion_unit": profile.unit, "sources": profile.source}
    return Result("\n".join(lines), {**data, "estimates": estimates, "notes": profile.notes, "paths": paths})


def _probe(args: argparse.Namespace, progress: Progress) -> Result:
    check_writable_file(args.out)
    from dyncompress.cli.early_checks import check_sources, refuse_overwriting

    check_sources(args)
    refuse_overwriting(args, [args.out])
    from dyncompress.cli.requests import record_probe
    from dyncompress.recording import save_trajectory

    trajectory = record_probe(args, progress)
    with made(args.out.parent):
        path = save_trajectory(trajectory, args.out)
    records, notes = len(trajectory.steps), trajectory.notes
    text = "\n".join((f"{path}: {records} records of {len(trajectory.motion)} layers", *(f"note: {note}" for note in notes)))
    data = {"path": path, "records": records, "learning_rate": trajectory.learning_rate, "notes": notes}
    return Result(text, {**data, "digest": trajectory.digest})


def _rank(args: argparse.Namespace, progress: Progress) -> Result:
    from dyncompress.cli.early_checks import check_ranking

    check_ranking(args)
    from dyncompress.cli.requests import rank_runs
    from dyncompress.reports.ranking import ranking_json, ranking_text

    ranking = rank_runs(args, progress)
    return Result(ranking_text(ranking), ranking_json(ranking))


def _plan(args: argparse.Namespace, progress: Progress) -> Result:
    from dyncompress.cli.early_checks import refuse_overwriting
    from dyncompress.recipe.plan_file import plan_to_toml
    from dyncompress.recipe.profile_file import profile_from_json
    from dyncompress.recipe.toml_files import recipe_for

    source = _input_file(args.profile, PROFILE)
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
    return Result(text, {**data, "notes": plan.notes})


def _pareto(args: argparse.Namespace, progress: Progress) -> Result:
    from dyncompress.cli.early_checks import refuse_overwriting
    from dyncompress.pipeline.pareto import pareto
    from dyncompress.recipe.profile_file import profile_from_json
    from dyncompress.recipe.toml_files import recipe_for
    from dyncompress.reports.pareto import drawn_as, pareto_json, pareto_text

    if args.out is not None:
        check_writable_file(args.out)
        refuse_overwriting(args, [args.out])
    write = None if args.out is None else drawn_as(args.out)
    profile = profile_from_json(_input_file(args.profile, PROFILE))
    budgets = [{args.of: value} for value in amounts(args.budgets)]
    curve = pareto(profile, budgets, of=args.of, recipe=recipe_for(args.recipe, profile, settings(args.set)))
    paths = {} if args.out is None or write is None else deliver(args.out.parent, {args.out.name: write(curve)})
    text = "\n".join((pareto_text(curve), *map(str, paths.values())))
    return Result(text, {**pareto_json(curve), "paths": paths})


def _verify(args: argparse.Namespace, progress: Progress) -> Result:
    path = _input_file(args.file, MODEL)
    held_out = None if args.held_out is None else load_data(args.held_out, "held-out data")
    from dyncompress.pipeline.verification import verify

    certificate = verify(path, certificate=args.certificate, held_out=held_out)
    differ = certificate.context.get("examples_that_differ", 0)
    how = "recomputed from the stored losses" if held_out is None else f"run again here, {differ} examples differ"
    text = f"verified: {path} is the file that was certified; {how}\n{certificate_text(certificate)}"
    return Result(text, {"verified": True, "file": path, "certificate": certificate_json(certificate)})


def _bench(args: argparse.Namespace, progress: Progress) -> Result:
    from dyncompress.cli.early_checks import check_sources

    files = {str(path): _read_onnx(path) for path in (_input_file(p, MODEL) for p in (args.file, *args.against))}
    check_sources(args)
    from dyncompress.cli.requests import time_files

    timings = time_files(files, args)
    header = ("file", "bytes", "median ms", "p10", "p90", "relative")
    rows = tuple(
        (name, f"{len(files[name]):,}", *(f"{1e3 * s:.3f}" for s in (t.median, t.p10, t.p90)), f"{t.relative:.2f}")
        for name, t in timings.items()
    )
    return Result(Table(header, rows, frozenset(header[1:])).plain(), {name: asdict(t) for name, t in timings.items()})


def _pack(args: argparse.Namespace, progress: Progress) -> Result:
    from dyncompress.coding import pack

    source = _input_file(args.file, MODEL)
    return _convert(source, args.out or source.with_suffix(".dync"), pack)


def _unpack(args: argparse.Namespace, progress: Progress) -> Result:
    from dyncompress.coding import unpack

    source = _input_file(args.file, MODEL)
    return _convert(source, args.out or source.with_suffix(".onnx"), unpack)


def _convert(source: Path, out: Path, conversion: Callable[[bytes], bytes]) -> Result:
    """Write the result of a conversion of one file to another."""
    check_writable_file(out)
    if out.exists() and out.samefile(source):
        raise InvalidRequest(f"--out {out}: it is the file itself; name another file.")
    before = source.read_bytes()
    after = conversion(before)
    path = deliver(out.parent, {out.name: after})[out.name]
    text = f"{path}: {len(after):,} bytes, of {source}: {len(before):,} bytes"
    return Result(text, {"from": source, "from_bytes": len(before), "file": path, "bytes": len(after)})


# ---------------------------------------------------------------- recipes and targets
def _recipes(args: argparse.Namespace, progress: Progress) -> Result:
    return _list_or_show(args, recipe_files())


def _targets(args: argparse.Namespace, progress: Progress) -> Result:
    if args.verb == "check" and any(name.lower().endswith(".onnx") for name in args.names):
        return _check_model(args)
    if args.target is not None:
        raise InvalidRequest(f"--target {args.target}: it belongs to `targets check MODEL.onnx`; name the ONNX file to check.")
    if args.verb != "check":
        return _list_or_show(args, target_files())
    from dyncompress.recipe.toml_files import load_target

    targets = {name: load_target(name) for name in args.names or target_files()}
    rows = tuple((name, target.verified, target.summary) for name, target in targets.items())
    data = {name: asdict(target) for name, target in targets.items()}
    return Result(Table(("target", "verified by", "summary"), rows).plain(), data)


def _check_model(args: argparse.Namespace) -> Result:
    """`targets check MODEL.onnx`: what a target does with the file; exit code 1 where it refuses something."""
    if len(args.names) > 1:
        raise InvalidRequest(f"targets check: {len(args.names)} files are named; name one ONNX file, and the target by --target.")
    from dyncompress.recipe.toml_files import target_for

    target, path = target_for(args.target, None), _input_file(Path(args.names[0]), MODEL)
    from dyncompress.deployment.target_check.check import check_file

    report = check_file(_read_model(path), target)
    rows = tuple(finding.row for finding in report.findings)
    how = f"by rules, and as {report.loaded_by} loads it" if report.loaded_by else "by rules alone: its runtime isn't here"
    head = f"{path}, for target '{report.target}', {how}; findings: {len(rows)}"
    table = Table(("severity", "place", "operator", "what happens, and what to change"), rows)
    text = "\n\n".join((head, table.plain(), report.precision.text))
    return Result(text, {"file": path, "refused": report.refused, **asdict(report)}, REFUSED if report.refused else DONE)


def _list_or_show(args: argparse.Namespace, files: dict[str, Path]) -> Result:
    """The names and summaries of all files, or the text of the named ones."""
    if args.verb == "show":
        if not args.names:
            raise InvalidRequest(f"{args.command} show: name one of {', '.join(files)}.")
        paths = {name: _path_of(name, files, args.command) for name in args.names}
        texts = {name: read_text(path, f"'{name}'") for name, path in paths.items()}
        return Result("\n".join(texts.values()), {name: toml(text, f"'{name}'") for name, text in texts.items()})
    summaries = {name: str(toml(read_text(path, name), name).get("summary", "")) for name, path in files.items()}
    return Result(Table(("name", "summary"), tuple(summaries.items())).plain(), summaries)


def _path_of(name: str, files: dict[str, Path], kind: str) -> Path:
    """The path of a file that comes with the library, or of the user's own file."""
    if name in files:
        return files[name]
    if is_file(Path(name), f"{kind} show '{name}'"):
        return Path(name)
    from dyncompress.errors import nearest

    raise InvalidRequest(f"{kind} show: there is no '{name}'{nearest(name, files)}")


def _input_file(path: Path, name: str) -> Path:
    """The path of a file, or of the file `name` in it if it is a directory.

    Raises:
        InvalidRequest: there is no such file.
    """
    file = path / name if is_directory(path) else path
    if not is_file(file, f"'{path}'"):
        raise InvalidRequest(f"'{file}': there is no such file.")
    return file


def _read_onnx(path: Path) -> bytes:
    """Read an ONNX file.

    Raises:
        InvalidRequest: it is a container, truncated, no ONNX file, or its weights are stored in other files.
    """
    from dyncompress.coding.external import refuse_external

    content = _read_model(path)
    refuse_external(content, f"'{path}'")
    return content


def _read_model(path: Path) -> bytes:
    """Read an ONNX file whose weights may be stored in other files.

    Raises:
        InvalidRequest: it is a container, truncated, or no ONNX file.
    """
    from dyncompress.coding import is_packed
    from dyncompress.coding.skeleton import is_model

    content = path.read_bytes()
    if is_packed(content):
        raise InvalidRequest(f"'{path}' is a container; take the ONNX file out of it with `dyncompress unpack {path}`.")
    if not is_model(content):
        raise InvalidRequest(f"'{path}' is truncated or no ONNX file; name a model.onnx.")
    return content


COMMANDS: dict[str, Callable[[argparse.Namespace, Progress], Result]] = {
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
