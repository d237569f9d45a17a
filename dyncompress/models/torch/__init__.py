"""The adapter of PyTorch modules: `model.py` is the adapter, each file beside it does one thing for it."""
