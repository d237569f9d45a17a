"""Training states: what the optimizer of a training run keeps of its gradients, read from the checkpoints of the frameworks.

`load_training_state` reads a file or a folder, `training_state_of` what is in memory, and `save_training_state` writes a file of
this library's own. Nothing is unpickled that could run code.
"""

from dyncompress.recording.training_states.loading import load_training_state, training_state_of
from dyncompress.recording.training_states.state_file import is_training_state, save_training_state

__all__ = ["is_training_state", "load_training_state", "save_training_state", "training_state_of"]
