"""The API reference: one page for the public names, one for each theme of `dyncompress.types`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import get_args, get_type_hints

import dyncompress
from dyncompress import types
from dyncompress.errors import DyncompressError

GROUPS = {
    "verbs": ("Verbs", "Functions in the order of work. Each takes what the one before it returns."),
    "values": ("Values", "What the functions take and return: frozen dataclasses, and the writer of trajectories."),
    "errors": ("Errors", "Every error that the library raises on purpose. Its message says what to change."),
}
THEMES = {
    "network": "The network: layers, channel groups, residual blocks",
    "observation": "What is observed of a layer",
    "training_state": "What an optimizer keeps of a training run",
    "plan": "Options, profiles and plans",
    "file": "The ONNX file",
    "certificate": "Held-out data and the certificate",
    "model": "Model adapters",
    "plugins": "What can be plugged in",
    "names": "Constants and aliases",
}


def pages() -> Mapping[str, str]:
    """All pages of the reference but for the command line."""
    made = {f"api/{group}.md": page(*GROUPS[group], entries("dyncompress", names)) for group, names in grouped().items()}
    for theme, title in THEMES.items():
        text = "Imported from `dyncompress.types`. Values that are public at the top level are on the page [Values](values.md)."
        made[f"api/types_{theme}.md"] = page(title, text, entries("dyncompress.types", themed()[theme]))
    made["api/further.md"] = page(
        "What signatures name",
        "Classes that the public functions take or return, which nobody has to import.",
        (line for kind in further() for line in entries(kind.__module__, [kind.__name__])),
    )
    return made


def further() -> list[type]:
    """Classes of this library in the signatures of public names that no other page documents, by name."""
    pending: list[object] = [getattr(dyncompress, name) for name in dyncompress.__all__]
    documented = {*dyncompress.__all__, *types.__all__}
    found: set[type] = set()
    while pending:
        named = {kind for kind in classes_in(pending.pop()) if kind.__name__ not in documented} - found
        found |= named
        pending.extend(named)
    return sorted(found, key=lambda kind: kind.__name__)


def classes_in(value: object) -> Iterable[type]:
    """The classes of this library that a function's or a class's annotations name."""
    functions = [value] if inspect.isfunction(value) else [one for one in vars(value).values() if inspect.isfunction(one)]
    public = [inspect.unwrap(one) for one in functions if not one.__name__.startswith("_")]
    pending = [hint for one in (value, *public) for hint in get_type_hints(one).values()]
    while pending:
        hint = pending.pop()
        pending.extend(get_args(hint))
        if isinstance(hint, type) and hint.__module__.startswith("dyncompress"):
            yield hint


def grouped() -> Mapping[str, list[str]]:
    """The group of every public name."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in dyncompress.__all__:
        value = getattr(dyncompress, name)
        is_class = isinstance(value, type)
        group = "verbs" if not is_class else "errors" if issubclass(value, DyncompressError) else "values"
        found[group].append(name)
    return found


def themed() -> Mapping[str, list[str]]:
    """The theme of every name of `dyncompress.types` that isn't public at the top level: the module a class is written in."""
    found: dict[str, list[str]] = {theme: [] for theme in THEMES}
    for name in types.__all__:
        if name not in dyncompress.__all__:
            value = getattr(types, name)
            own = isinstance(value, type) and value.__module__.startswith("dyncompress.types.")
            found[value.__module__.rpartition(".")[2] if own else "names"].append(name)
    return found


def page(title: str, text: str, lines: Iterable[str]) -> str:
    """A page in Markdown."""
    return "\n".join([f"# {title}", "", text, "", *lines])


def entries(module: str, names: Iterable[str]) -> Iterable[str]:
    """A heading and a directive for each name."""
    home = import_module(module)
    for name in names:
        value = getattr(home, name)
        kind = kind_of(value)
        yield from [f"## {name}", "", "```{eval-rst}", f".. {kind}:: {module}.{name}"]
        if kind == "autoclass":
            yield from ["   :members:", "   :special-members: __call__"]
        yield from ["```", ""]


def kind_of(value: object) -> str:
    """The directive that documents a value."""
    if isinstance(value, type) and value.__module__.startswith("dyncompress"):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isfunction(value) else "autodata"
