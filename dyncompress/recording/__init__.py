"""The door for time: records weights during training; `record` of `torch_callback` hooks it into a torch loop."""

from dyncompress.recording.digest import weights_digest
from dyncompress.recording.trajectory_file import load_trajectory, save_trajectory
from dyncompress.recording.writer import TrajectoryWriter

__all__ = ["TrajectoryWriter", "load_trajectory", "save_trajectory", "weights_digest"]
