"""A coarse trajectory from a folder of checkpoints without an optimizer's state: the weights of each, in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.recording.checkpoint_sequence import trajectory_of
from dyncompress.recording.increment_fisher import FEWEST
from dyncompress.recording.torch_callback import layer_weights
from dyncompress.recording.training_states.contents import contents_of
from dyncompress.recording.training_states.loading import checkpoints_in
from dyncompress.recording.training_states.matching import plain_name
from dyncompress.recording.training_states.tensor_files import read_tensors
from dyncompress.types import Trajectory


def coarse_trajectory(folder: Path, module: nn.Module) -> Trajectory:
    """The trajectory of the checkpoints in a folder, in the order of the last number in their names.

    Args:
        folder: of files that hold the module's weights.
        module: the trained module, which the last checkpoint is of; it is not changed.

    Raises:
        InvalidRequest: there are fewer than 3, or one doesn't hold the module's weights.
    """
    files = checkpoints_in(folder)
    if len(files) < FEWEST:
        raise InvalidRequest(
            f"folder '{folder}' holds no state of an optimizer and {len(files)} checkpoints; give one that holds the optimizer's "
            f"state, or at least {FEWEST} checkpoints of one run."
        )
    return trajectory_of(_sets(files, module))


def _sets(files: list[Path], module: nn.Module) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Step and layer weights of each checkpoint; where names have no number, checkpoints count as one step apart."""
    numbers = [[int(n) for n in re.findall(r"\d+", file.stem)][-1:] for file in files]
    steps = [n[0] for n in numbers if n]
    known = len(steps) == len(files) and len(set(steps)) == len(files)
    module = deepcopy(module)
    own = module.state_dict()
    for place, file in enumerate(files):
        sets = contents_of(read_tensors(file)).weights
        saved = {plain_name(name): value for one in sets[:1] for name, value in one.tensors.items()}
        wanted = {name: value for name, value in own.items() if value.ndim > 1 and value.is_floating_point()}
        missing = [n for n, v in wanted.items() if n not in saved or saved[n].shape != v.shape]
        if missing:
            shape = list(wanted[missing[0]].shape)
            raise InvalidRequest(
                f"checkpoint '{file}' has no weight '{missing[0]}' of shape {shape}; give checkpoints of this model's training."
            )
        module.load_state_dict({name: saved[name] for name in wanted}, strict=False)
        yield (steps[place] if known else place + 1), layer_weights(module)
