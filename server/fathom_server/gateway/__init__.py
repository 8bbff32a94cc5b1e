"""OpenAI's HTTP API in front of Triton: a process of its own that asks the models through ``AsyncClient``."""
