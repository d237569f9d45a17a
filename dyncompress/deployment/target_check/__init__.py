"""What a target's runtime makes of any ONNX file, node by node: `check.check_file`.

A rule reads fields of the target: `form` has those about versions, types, axes and size, `integers` those about grids and
products. `kernels` reads from onnxruntime's optimised graph what really runs on integers, and `precision` counts bytes and
operations.
"""
