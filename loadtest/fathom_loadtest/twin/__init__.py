"""A twin of a deployment: the same models over real Triton, with times and faults that are set instead of weights."""
