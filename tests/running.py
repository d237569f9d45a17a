"""Run files in tests as a processor of the default target computes, on machines with and without 8-bit dot products."""

import onnxruntime

from dyncompress import load_target
from dyncompress.deployment.session import open_session


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    """A session of a file; see `deployment.session.open_session` about sums that saturate."""
    return open_session(content, load_target("onnxruntime-x86-vnni"))
