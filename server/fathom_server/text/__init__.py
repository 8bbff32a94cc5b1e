"""Text to token ids and back, without Triton and without transformers."""
