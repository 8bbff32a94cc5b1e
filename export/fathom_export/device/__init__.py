"""LLMs for ONNX Runtime alone, within a budget of size and memory: bundles for devices that have no Triton."""
