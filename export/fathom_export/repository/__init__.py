"""A Triton model repository: the configuration of each model, its files, and how they come into place."""
