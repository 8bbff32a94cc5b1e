"""Precisions below float32: which ones go together with what, and how weights and activations get there."""
