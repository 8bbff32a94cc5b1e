"""What runs inside Triton: the twin's models, by Triton's Python backend, and their metrics."""
