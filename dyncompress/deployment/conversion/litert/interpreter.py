"""Run a LiteRT file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dyncompress.deployment.conversion.litert.flatbuffer import SIGNATURE
from dyncompress.errors import Unsupported


class Interpreted:
    """A LiteRT file in its interpreter, with the method of an onnxruntime session that a comparison calls."""

    def __init__(self, content: bytes, outputs: Sequence[str]) -> None:
        """Load a file.

        Args:
            content: the bytes of the LiteRT file.
            outputs: names of its outputs, in the ONNX file's order, which LiteRT's signatures don't keep.

        Raises:
            Unsupported: LiteRT doesn't take the file.
        """
        from ai_edge_litert.interpreter import Interpreter

        self._outputs = outputs
        try:
            self._runner = Interpreter(model_content=content, num_threads=1).get_signature_runner(SIGNATURE)
        except (RuntimeError, ValueError) as error:
            raise _refusal(error) from error

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs for some inputs.

        Args:
            names: of the outputs; None: all, in the ONNX file's order.
            inputs: name -> array; where the file takes one example and there are more, they are run one after the other.

        Raises:
            Unsupported: LiteRT can't compute the file.
        """
        details = self._runner.get_input_details()
        single = {name for name, array in inputs.items() if array.ndim and len(array) != details[name]["shape"][0]}
        count = max((len(inputs[name]) for name in single), default=1)
        runs = []
        for row in range(count):
            given = {name: array[row : row + 1] if name in single else array for name, array in inputs.items()}
            try:
                runs.append(self._runner(**given))
            except (RuntimeError, ValueError) as error:
                raise _refusal(error) from error
        names = names or self._outputs
        return [np.concatenate([found[name] for found in runs]) if count > 1 else runs[0][name] for name in names]


def _refusal(error: Exception) -> Unsupported:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    return Unsupported(f"LiteRT can't run the converted file: {reason}; run the ONNX file itself.")
