"""Check any ONNX file against a target: what its runtime refuses, computes in float or slowly, and its real precision.

Rules read the fields of the target alone. Where onnxruntime on this machine is the target's runtime, it loads the file, and its
own optimised graph says which nodes really run on integer kernels.
"""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnxruntime
from onnx import TensorProto

from dyncompress.deployment.domain import PRODUCTS
from dyncompress.deployment.session import cannot_run_here
from dyncompress.deployment.target_check.form import STANDARD, form_findings, tensor_findings, version_findings
from dyncompress.deployment.target_check.graph import View, place, view
from dyncompress.deployment.target_check.integers import (
    grid_findings,
    has_quantized_activations,
    node_findings,
    product_reason,
)
from dyncompress.deployment.target_check.kernels import Kernels, kernels_here, runs_on_integers
from dyncompress.deployment.target_check.precision import precision
from dyncompress.deployment.target_check.report import FILE, SEVERITIES, Finding, Precision, TargetReport
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types import Target


def check_file(content: bytes, target: Target) -> TargetReport:
    """Check an ONNX file against a target.

    Args:
        content: the bytes of any ONNX file, sealed or not.
        target: as `load_target` returns it.

    Raises:
        InvalidRequest: the bytes aren't an ONNX model with nodes.

    Example:
        >>> from onnx import helper
        >>> ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
        >>> model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
        >>> report = check_file(model.SerializeToString(), Target("board", "", "schema", static_shapes=True))
        >>> [(finding.severity, finding.place) for finding in report.findings]
        [('refused', 'x')]
    """
    model = _parsed(content)
    versions = list(version_findings(model, target))
    graph = view(model)
    external = any(tensor.data_location == TensorProto.EXTERNAL for tensor in graph.tensors.values())
    kernels, refusals = None, []
    here = target.runtime == "onnxruntime" and (target.verified == "runtime" or not cannot_run_here(target))
    if here and not external:
        kernels, refusals = _loaded(content, target)
    loaded_by = "" if kernels is None else f"onnxruntime {onnxruntime.__version__}"
    if loaded_by:
        versions = [_read_here(finding, loaded_by) for finding in versions]
    elif not external and (malformed := _malformed(model)):  # the rules read well-formed graphs
        return TargetReport(target.name, (*versions, *refusals, *malformed), Precision())
    findings = [*refusals, *form_findings(model, content, target), *tensor_findings(graph, target)]
    findings += [*grid_findings(graph, target), *node_findings(graph, target)]
    in_float = _computed_in_float(graph, target, kernels)
    findings = [*versions, *_as_measured(findings, graph, kernels, in_float)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return TargetReport(target.name, tuple(findings), precision(graph, in_float), loaded_by)


def _loaded(content: bytes, target: Target) -> tuple[Kernels | None, list[Finding]]:
    """The kernels that onnxruntime uses here, or a finding that says why it refuses the file."""
    try:
        return kernels_here(content, target), []
    except Unsupported as error:
        text = str(error)
        return None, [Finding("refused", FILE, "", f"{text[:1].upper()}{text[1:]}")]


def _parsed(content: bytes) -> onnx.ModelProto:
    """Parse a file without its other files.

    Raises:
        InvalidRequest: it isn't an ONNX model with nodes.
    """
    try:
        onnx.checker.check_model(content)
    except onnx.checker.ValidationError:
        pass  # the file is a finding, or has weights in other files
    except ValueError as error:  # the bytes can't be parsed
        raise InvalidRequest(f"the {len(content)} bytes given aren't an ONNX file; name a file that ends with .onnx.") from error
    model = onnx.ModelProto.FromString(content)
    if not model.graph.node:
        raise InvalidRequest(f"the {len(content)} bytes given hold no ONNX graph with nodes; export the model again.")
    return model


def _read_here(finding: Finding, runtime: str) -> Finding:
    """A version that is newer than the target's, and that the runtime here reads, as a note."""
    return replace(
        finding, severity="note", sentence=f"{finding.sentence.removesuffix('.')} (the newer {runtime} here reads it)."
    )


def _malformed(model: onnx.ModelProto) -> list[Finding]:
    """What onnx's checker refuses, where no runtime loads the file here; nothing for versions that the checker doesn't know."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
    if model.ir_version > onnx.IR_VERSION or opset > onnx.defs.onnx_opset_version():
        return []
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.output:  # runtimes read outputs without a shape, which the checker refuses
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(copy)
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        return [Finding("refused", FILE, "", f"The file isn't well formed ({reason}); export the model again.")]
    return []


def _computed_in_float(graph: View, target: Target, kernels: Kernels | None) -> frozenset[str]:
    """Places of the products that compute in float: as the optimised graph shows, else as the rules say."""
    places = set()
    for node in graph.model.graph.node:
        if node.op_type in PRODUCTS:
            on_integers = None if kernels is None else runs_on_integers(node, graph, kernels)
            if not (product_reason(node, graph, target) is None if on_integers is None else on_integers):
                places.add(place(node))
    return frozenset(places)


def _as_measured(findings: list[Finding], graph: View, kernels: Kernels | None, in_float: frozenset[str]) -> list[Finding]:
    """The findings without those that the optimised graph disproves, and with the float nodes that no rule foresees."""
    if kernels is None:
        return findings
    kept, reported = [], set()
    nodes = {place(node): node for node in graph.model.graph.node}
    for finding in findings:
        node = nodes.get(finding.place)
        judged = finding.severity in ("float", "slow") and node is not None and node.op_type in (*PRODUCTS, "Add")
        if judged and node is not None and runs_on_integers(node, graph, kernels):
            continue
        if judged:
            reported.add(finding.place)
        kept.append(finding)
    if has_quantized_activations(graph):
        text = "onnxruntime here computes it in float, for a reason that no rule knows; compare it with a layer that is fused."
        missed = [name for name in nodes if name in in_float and name not in reported]
        kept += [Finding("float", name, nodes[name].op_type, text) for name in missed]
    return kept
