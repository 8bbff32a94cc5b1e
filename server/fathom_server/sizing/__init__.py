"""What an LLM takes of a machine: memory by its parts, and the time of a step. Arithmetic alone, fast to import."""
