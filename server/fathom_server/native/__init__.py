"""Fathom's operators for ONNX Runtime on CPU: a small C++ library, domain ``fathom``, built with the package."""
