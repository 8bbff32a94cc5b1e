"""Triton backends in Python: each ``model.py`` translates between Triton and the package, nothing more."""
