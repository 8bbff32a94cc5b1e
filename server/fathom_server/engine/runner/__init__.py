"""One step of one model, on the runtime that executes it."""
