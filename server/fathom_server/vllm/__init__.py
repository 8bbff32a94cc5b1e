"""An engine that asks another: vLLM, behind Triton's vLLM backend, as the engine of the ``fathom`` backend."""
