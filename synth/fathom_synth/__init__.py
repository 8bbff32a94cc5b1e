"""Training data that a served model writes: prompts from templates, answers asked, filtered, with their provenance."""

__version__ = "0.1.0"
