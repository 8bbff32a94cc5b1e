"""The ``fathom`` backend: an LLM behind Triton, served by the engine."""
