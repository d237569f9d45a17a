"""The error classes: the class says what kind of change helps, and the message what is wrong and what to change."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class DyncompressError(Exception):
    """The base class of all errors that this library raises deliberately.

    Attributes:
        exit_code: of the command line.

    Example:
        >>> import dyncompress
        >>> try:
        ...     dyncompress.load_recipe("edge-int9")
        ... except dyncompress.DyncompressError as error:
        ...     print(error, error.exit_code)
        recipe 'edge-int9': there is no such recipe; did you mean 'edge-int8'? 2
    """

    exit_code = 2


class InvalidRequest(DyncompressError):  # noqa: N818  (it reads as "this request is invalid")
    """An argument or a file is wrong; change it as the message says.

    Example:
        >>> import dyncompress
        >>> dyncompress.load_recipe("edge-int8", {"budget.bytes": 30})
        Traceback (most recent call last):
        dyncompress.errors.InvalidRequest: budget.bytes is 30, read as 30 bytes; a share is written below 1, e.g. 0.25.
    """


class Unsupported(DyncompressError):  # noqa: N818
    """The model or the target doesn't support this; the message says what is supported.

    Example:
        >>> import dataclasses, dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> small_device = dataclasses.replace(dyncompress.load_target("onnxruntime-x86-vnni"), max_model_bytes=1000)
        >>> dyncompress.compress(network, target=small_device, calibration=torch.randn(64, 64))
        Traceback (most recent call last):
        dyncompress.errors.Unsupported: the file takes 5,534 bytes, target 'onnxruntime-x86-vnni' takes 1,000; lower budget.bytes.
    """


class Infeasible(DyncompressError):  # noqa: N818
    """No plan fits the budget; raise the budget or allow more choices.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x, target = torch.randn(64, 64), "onnxruntime-x86-vnni"
        >>> profile = dyncompress.measure(network, "edge-int8", target=target, calibration=x)
        >>> dyncompress.allocate(profile, dyncompress.Budget(bytes=1000))
        Traceback (most recent call last):
        dyncompress.errors.Infeasible: the smallest plan takes ... bytes, the budget is 1 000; raise budget.bytes or allow 2 bits
        ...
    """

    exit_code = 3


class NotCertified(DyncompressError):  # noqa: N818
    """The promise isn't kept on the held-out examples; no file is returned or written.

    Example:
        >>> import dataclasses, dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x, held_out, target = torch.randn(64, 64), torch.randn(400, 64), "onnxruntime-x86-vnni"
        >>> profile = dyncompress.measure(network, "edge-int8", target=target, calibration=x)
        >>> plan = dyncompress.allocate(profile)
        >>> two_bits = {unit: dyncompress.Choice(weight_bits=2, activation_bits=8) for unit in plan.asked}
        >>> bold = dataclasses.replace(plan, asked=two_bits)
        >>> file = dyncompress.export(dyncompress.apply(network, bold, calibration=x))
        >>> labels = network(held_out).argmax(1)
        >>> dyncompress.certify(file, reference=network, held_out=(held_out, labels), promise=0.05)
        Traceback (most recent call last):
        dyncompress.errors.NotCertified: the risk increase is ...; 0.05 was promised: promise more, or compress less.
    """

    exit_code = 4


class Altered(DyncompressError):  # noqa: N818
    """A digest or a seal doesn't match: the file isn't the one that was certified. Get the file and its certificate again.

    Example:
        >>> import dyncompress, pathlib, tempfile, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> x, held_out = torch.randn(64, 64), torch.randn(200, 64)
        >>> file = dyncompress.compress(network, calibration=x, held_out=(held_out, network(held_out).argmax(1)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = file.save(pathlib.Path(folder) / "small.onnx")
        ...     _ = path.write_bytes(path.read_bytes()[1:])
        ...     dyncompress.verify(path)
        Traceback (most recent call last):
        dyncompress.errors.Altered: ...
    """

    exit_code = 5


class Differs(DyncompressError):  # noqa: N818
    """The ONNX file and the torch model that it was made of have different outputs: the export of this model isn't reliable.

    Example:
        >>> import dyncompress, torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        >>> try:
        ...     file = dyncompress.compress(network, calibration=torch.randn(64, 64))
        ... except dyncompress.Differs as error:
        ...     print("torch.onnx doesn't export this network correctly:", error)
    """

    exit_code = 6


def nearest(word: str, known: Collection[str]) -> str:
    """The end of a message about an unknown word: the nearest known word, or all of them.

    Args:
        word: as it was given.
        known: the valid words.

    Example:
        >>> nearest("fractoin", ["fraction", "seed"])
        "; did you mean 'fraction'?"
        >>> nearest("x", ["fraction", "seed"])
        '; known: fraction, seed.'
    """
    close = difflib.get_close_matches(word, list(known), 1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}." if known else "; it takes none."
