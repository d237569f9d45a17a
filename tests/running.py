"""Run files in tests as a processor of the default target computes, on machines with and without 8-bit dot products."""

import onnxruntime

from dyncompress import load_target
from dyncompress.deployment.session import load, options


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    """A session of a file; see `deployment.session.options` about sums that saturate."""
    return load(content, options(load_target("onnxruntime-x86-vnni")))
