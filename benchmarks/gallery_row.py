"""What a row of the gallery is: a float ONNX file, calibration inputs, and a judge with true labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

Arrays = Mapping[str, np.ndarray]  # input name -> [n, ...]
Run = Callable[[Arrays], list[np.ndarray]]  # runs a file: inputs -> its outputs, in the file's order


@dataclass(frozen=True)
class Row:
    """One model of the gallery.

    Attributes:
        name: short name, lower case with hyphens, such as `ppocr-direction`.
        kind: what the model works on, such as `documents`.
        made_by: who trained it, and which exporter wrote the file.
        metric: what the judge measures, such as `directions that are right`.
        float_file: returns the bytes of the float ONNX file.
        calibration: returns the calibration inputs, without labels: `{input name: [n, ...]}`, or a list of such batches, whose
            other axes may differ in length. No test example is among them.
        judge: runs a file on the test examples and returns one score in [0, 1] for each independent unit (an example, or a group
            of examples that aren't independent), 1 is best; the metric is their mean. It has the true labels.
        example: returns the inputs of one call at batch 1, for the time and for the difference of outputs.
        held_out: returns inputs and labels of fresh examples, neither in `calibration` nor used by `judge`, for a certificate
            (labels as the risk takes them, None: agreement); None: the row has none.
        risk: the risk of the certificate, a name that `dyncompress` knows.
        module: returns the torch module that `dyncompress` gets in place of the float file; None: it gets the file.
    """

    name: str
    kind: str
    made_by: str
    metric: str
    float_file: Callable[[], bytes]
    calibration: Callable[[], dict[str, np.ndarray] | list[dict[str, np.ndarray]]]
    judge: Callable[[Run], np.ndarray]
    example: Callable[[], dict[str, np.ndarray]]
    held_out: Callable[[], tuple[dict[str, np.ndarray], np.ndarray | None]] | None = None
    risk: str = "agreement"
    module: Callable[[], nn.Module] | None = None
