"""``fathom-fit``: whether a model fits, on what, how fast, and at what cost."""
