"""The names that annotate arrays with dtype and shape: `Float[np.ndarray, "n d"]` is a float array of n rows and d columns.

They are jaxtyping's where jaxtyping is loaded, which the tests do so that beartype checks every call. Elsewhere they are
stand-ins that check nothing, because importing jaxtyping takes longer than a whole `dyncompress --help`.

A letter stands for the same size throughout one signature, `...` for any further axes, and a number for itself. An annotation
with a single axis begins with a blank (`" n"`), so that linters don't read the letter as the name of a class.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int8, Int32, Int64, Integer, Num, Real, Shaped, UInt8

    __all__ = ["Bool", "Float", "Float32", "Float64", "Int8", "Int32", "Int64", "Integer", "Num", "Real", "Shaped", "UInt8"]
else:

    class _Unchecked:
        """Stands for a dtype where jaxtyping isn't loaded: `_Unchecked[array_type, shape]` is `array_type`."""

        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    def __getattr__(name: str) -> Any:
        """The dtype called `name`.

        Raises:
            AttributeError: the name isn't one of jaxtyping's, or begins with an underscore.
        """
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        loaded = sys.modules.get("jaxtyping")
        return _Unchecked if loaded is None else getattr(loaded, name)
