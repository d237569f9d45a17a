"""The reference of the command line, from its own parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from dyncompress.cli.arguments import parser

INTRODUCTION = """# Command line

`dyncompress COMMAND ...`, or `python -m dyncompress COMMAND ...`. This page is written from the parser of the installed version;
`dyncompress COMMAND --help` prints the same. Every command takes `--json` (one JSON object on standard output) and `--quiet`.
"""


def pages() -> Mapping[str, str]:
    """One page for all commands."""
    whole = parser()
    commands = subparsers(whole)
    lines = [INTRODUCTION, "## Conventions", "", *sentences(whole.epilog or ""), "", "## Commands", ""]
    lines += ["| command | what it does |", "|---|---|"]
    lines += [f"| [{name}](#dyncompress-{name}) | {command.description} |" for name, command in commands.items()]
    for name, command in commands.items():
        lines += ["", *section(name, command)]
    return {"cli.md": "\n".join(lines) + "\n"}


def subparsers(whole: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Name -> parser of every command."""
    (found,) = (action.choices for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    return found


def sentences(epilog: str) -> Iterable[str]:
    """The parser's closing text as a list, with its placeholders as code."""
    for part in epilog.split("  "):
        yield f"- {part.replace('MODEL', '`MODEL`').replace('DATA', '`DATA`')}"


def section(name: str, command: argparse.ArgumentParser) -> Iterable[str]:
    """Usage, arguments and options of one command."""
    yield from [f"## dyncompress {name}", "", f"{(command.description or '').capitalize()}.", ""]
    yield from ["```text", *wrapped_usage(command), "```", ""]
    formatter = command._get_formatter()
    for action in command._actions:
        if action.dest in ("help", "json", "quiet"):
            continue
        words = ", ".join(f"`{word}`" for word in invocations(action))
        needed = " (required)" if action.required else ""
        yield from [words, f": {formatter._expand_help(action) if action.help else ''}{needed}", ""]


def wrapped_usage(command: argparse.ArgumentParser) -> Iterable[str]:
    """The usage line in lines of at most 100 characters, whatever the width of the terminal is."""
    formatter = argparse.HelpFormatter(command.prog, width=100)
    formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups, prefix="")
    return formatter.format_help().splitlines()


def invocations(action: argparse.Action) -> Iterable[str]:
    """How an argument or option is written."""
    choices = "|".join(map(str, action.choices)) if action.choices else ""
    value = action.metavar or choices or action.dest.upper()
    value = value if isinstance(value, str) else " ".join(value)
    if not action.option_strings:
        return [value]
    return [option if action.nargs == 0 else f"{option} {value}" for option in action.option_strings]
