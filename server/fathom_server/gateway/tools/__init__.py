"""Calls of tools: how each kind of chat template writes them, and how they are read out of an answer as it comes."""
