"""The ``onnxruntime`` backend for a Triton that has not got its own: the same config.pbtxt, on CPU, through Python."""
