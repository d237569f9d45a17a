"""Record the weights of a network during training: a `TrajectoryWriter`, and a callback for each framework.

`torch_callback.record` connects a writer to a PyTorch training loop. The modules of the frameworks are imported by name, since
each needs its framework.
"""

from dyncompress.recording.checkpoint_sequence import trajectory_of
from dyncompress.recording.digest import weights_digest
from dyncompress.recording.trajectory_file import load_trajectory, save_trajectory
from dyncompress.recording.writer import TrajectoryWriter

__all__ = ["TrajectoryWriter", "load_trajectory", "save_trajectory", "trajectory_of", "weights_digest"]
