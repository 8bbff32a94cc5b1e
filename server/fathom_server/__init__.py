"""Fathom's server: launcher, Triton backends and LLM engine."""

from typing import Final

__version__: Final = "0.1.0"
