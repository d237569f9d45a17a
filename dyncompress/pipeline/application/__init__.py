"""The body of `apply`: a plan carried out on a copy of the model, structure first, then weights."""
