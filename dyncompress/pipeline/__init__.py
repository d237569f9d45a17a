"""The order of work: the only package that joins the others. The verbs are in `verbs`.

Nothing is imported here, so that `dyncompress verify` runs without torch.
"""
