"""The adapter of ONNX files: a graph opened as a torch module, and written again with other weights."""
