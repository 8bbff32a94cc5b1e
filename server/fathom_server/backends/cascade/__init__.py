"""The ``cascade`` backend: a small LLM and a large one behind the tensors of one."""
