"""Where checkpoints come from: a folder, the Hugging Face hub, or a Python package that carries a model."""

from fathom_export.sources.resolve import Source, resolve_source

__all__ = ["Source", "resolve_source"]
