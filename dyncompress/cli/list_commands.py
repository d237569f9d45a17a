"""The commands `recipes` and `targets`: list, show and check what comes with the library."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from dyncompress.cli.exit_codes import DONE, REFUSED
from dyncompress.cli.results import Result, input_file, read_model
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.bundled_files import recipe_files, target_files
from dyncompress.recipe.text_files import is_file, read_text, toml
from dyncompress.reports import Table
from dyncompress.reports.output_files import MODEL
from dyncompress.types.progress import Progress


def recipes(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress recipes`: list or show recipes."""
    return _list_or_show(args, recipe_files())


def targets(args: argparse.Namespace, progress: Progress) -> Result:
    """`dyncompress targets`: list, show or check targets, or check an ONNX file against one."""
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

    target, path = target_for(args.target, None), input_file(Path(args.names[0]), MODEL)
    from dyncompress.deployment.target_check.check import check_file

    report = check_file(read_model(path), target)
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
