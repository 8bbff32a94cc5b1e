"""From a Hugging Face checkpoint to ONNX in a Triton model repository."""
