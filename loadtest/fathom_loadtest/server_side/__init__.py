"""The server's side of a run: what Triton and the engine counted meanwhile, beside what the client measured."""
