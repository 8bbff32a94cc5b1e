"""What vLLM's engine may be told, as vLLM's own source says it."""
