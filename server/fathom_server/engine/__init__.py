"""The LLM engine: continuous batching over a decoder graph. It knows nothing of Triton."""
