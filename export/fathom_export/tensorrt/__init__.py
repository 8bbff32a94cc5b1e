"""TensorRT plans, built on the GPU that they are for, from a graph that the repository holds already."""
