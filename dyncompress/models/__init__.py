"""Doors in: one file a framework. `torch.py` is the door; the files beside it each do one thing for it."""
