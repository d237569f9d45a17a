"""The layers' variables in the weights of a `.keras` file, in the order in which Keras lists a model's trainable variables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Layers of Keras with layers of their own, in the order in which those are made; a file lists them by name.
_MADE = ("query_dense", "key_dense", "value_dense", "gate_dense", "output_dense"), ("forward_layer", "backward_layer")
_OTHERS = ("vars", "layers", "optimizer", "metrics", "loss", "seed_generator")


@dataclass(frozen=True)
class Variable:
    """A variable of a layer: its name, and its value in Keras' layout."""

    name: str
    value: np.ndarray


def variables_of(
    file: Any, config: Mapping[str, Any], read: Callable[[np.ndarray], np.ndarray]
) -> tuple[dict[str, Variable], set[tuple[int, ...]]]:
    """The variables that may be trained, with two or more axes.

    Layers of one's own class may hold layers, whose order the file doesn't tell: where two of their variables have one shape,
    variables of that shape are left out.

    Args:
        file: the weights.
        config: of the model.
        read: brings an array of the file to a type of NumPy's.

    Returns:
        Name -> variable, in order, and the shapes that are left out.
    """
    found = [(name, dataset, unsure) for name, dataset, unsure in _walk(file, config, "", "") if dataset.ndim > 1]
    several = Counter((dataset.shape, unsure) for _, dataset, unsure in found if unsure)
    mixed = {shape for (shape, _), count in several.items() if count > 1}
    return {name: Variable(name, read(dataset[()])) for name, dataset, _ in found if dataset.shape not in mixed}, mixed


def _walk(group: Any, config: Mapping[str, Any], path: str, unsure: str) -> Iterator[tuple[str, Any, str]]:
    """Name, array, and the layer below which the order is unknown, of every variable of a layer that isn't frozen."""
    own = config.get("config") or {}
    if own.get("trainable") is False:
        return
    if "vars" in group and path:
        for key in sorted(group["vars"], key=int):
            yield f"{path}/{key}", group["vars"][key], unsure
    rest = [key for key in group if key not in _OTHERS and hasattr(group[key], "keys")]
    layers = own.get("layers") if isinstance(own.get("layers"), list) else None
    inner = group.get("layers", {})
    if layers is not None:
        named = {str(inner[key]["vars"].attrs.get("name")): inner[key] for key in inner if "vars" in inner[key]}
        for layer in layers:
            name = (layer.get("config") or {}).get("name")
            if name in named:
                yield from _walk(named.pop(name), layer, f"{path}/{name}".removeprefix("/"), unsure)
        children = [*((f"{path}/{name}", part) for name, part in named.items()), *((f"{path}/{key}", group[key]) for key in rest)]
    else:
        children = [(f"{path}/{key}", part) for key, part in (*((k, group[k]) for k in rest), *((k, inner[k]) for k in inner))]
    below = [(name, part) for name, part in _made_order(children) if _holds_arrays(part)]
    known = any(all(name.rpartition("/")[2] in made for name, _ in below) for made in _MADE)
    for name, part in below:
        doubt = unsure or ("" if known or (layers is None and len(below) == 1) else path or "the model")
        yield from _walk(part, _config_below(own), name.removeprefix("/"), doubt)


def _made_order(children: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Children in the order in which Keras' own layers make them, where they are such."""
    order = {name: place for made in _MADE for place, name in enumerate(made)}
    return sorted(children, key=lambda child: order.get(child[0].rpartition("/")[2], len(order)))


def _holds_arrays(group: Any) -> bool:
    """Whether there are weights below a group; seeds and the like have fewer axes."""
    found = False

    def visit(_: str, item: Any) -> None:
        nonlocal found
        found = found or getattr(item, "ndim", 0) > 1

    group.visititems(visit)
    return found


def _config_below(own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a wrapped layer, if there is one that says whether it is frozen."""
    layer = own.get("layer")
    return layer if isinstance(layer, Mapping) else {}
