"""Compress a trained network into a small ONNX file with a certificate.

`compress` does it in one call. The other verbs do one step each: `measure` the layers, `allocate` a plan, `apply` it, `export`
the ONNX file and `certify` it. All public names are imported on first use (PEP 562), so that `import dyncompress` is fast and
verifying a certificate needs neither torch nor onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dyncompress.errors import (
        Altered,
        Differs,
        DyncompressError,
        Infeasible,
        InvalidRequest,
        NotCertified,
        Unsupported,
    )
    from dyncompress.models.torch.sgd_probe import probe
    from dyncompress.pipeline.checkpoint import load, save_compressed
    from dyncompress.pipeline.comparison import compare
    from dyncompress.pipeline.conversion import convert
    from dyncompress.pipeline.pareto import pareto
    from dyncompress.pipeline.selection import rank
    from dyncompress.pipeline.verbs import allocate, apply, certify, compress, export, measure, verify
    from dyncompress.recipe.recipe import Recipe
    from dyncompress.recipe.toml_files import load_recipe, load_target
    from dyncompress.recording import TrajectoryWriter
    from dyncompress.recording.training_states import load_training_state, save_training_state, training_state_of
    from dyncompress.types import Budget, Certificate, Choice, Compressed, HeldOut, OnnxFile, Plan, Profile, Target

__version__ = "0.1.0"

_MODULES = {
    "compress": "pipeline.verbs",
    "measure": "pipeline.verbs",
    "allocate": "pipeline.verbs",
    "apply": "pipeline.verbs",
    "export": "pipeline.verbs",
    "certify": "pipeline.verbs",
    "verify": "pipeline.verification",
    "convert": "pipeline.conversion",
    "probe": "models.torch.sgd_probe",
    "pareto": "pipeline.pareto",
    "compare": "pipeline.comparison",
    "rank": "pipeline.selection",
    "load": "pipeline.checkpoint",
    "save_compressed": "pipeline.checkpoint",
    "Recipe": "recipe.recipe",
    "load_recipe": "recipe.toml_files",
    "load_target": "recipe.toml_files",
    "TrajectoryWriter": "recording",
    "load_training_state": "recording.training_states",
    "save_training_state": "recording.training_states",
    "training_state_of": "recording.training_states",
    "Budget": "types",
    "Certificate": "types",
    "Choice": "types",
    "Compressed": "types",
    "HeldOut": "types",
    "OnnxFile": "types",
    "Plan": "types",
    "Profile": "types",
    "Target": "types",
    "DyncompressError": "errors",
    "InvalidRequest": "errors",
    "Unsupported": "errors",
    "Infeasible": "errors",
    "NotCertified": "errors",
    "Altered": "errors",
    "Differs": "errors",
}

__all__ = [  # noqa: RUF022  (the verbs first, in the order of work)
    "compress",
    "measure",
    "allocate",
    "apply",
    "export",
    "certify",
    "verify",
    "convert",
    "probe",
    "rank",
    "pareto",
    "compare",
    "load",
    "save_compressed",
    "load_recipe",
    "load_target",
    "TrajectoryWriter",
    "load_training_state",
    "save_training_state",
    "training_state_of",
    "Recipe",
    "Budget",
    "Certificate",
    "Choice",
    "Compressed",
    "HeldOut",
    "OnnxFile",
    "Plan",
    "Profile",
    "Target",
    "DyncompressError",
    "InvalidRequest",
    "Unsupported",
    "Infeasible",
    "NotCertified",
    "Altered",
    "Differs",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use.

    Raises:
        AttributeError: the package has no such public name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'dyncompress' has no attribute {name!r}; the public names are {', '.join(__all__)}.")
    value = getattr(import_module(f"dyncompress.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion in an interactive session."""
    return sorted([*__all__, "__version__"])
