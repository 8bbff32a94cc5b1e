"""Data, tokenizer and architecture of the two example language models."""
