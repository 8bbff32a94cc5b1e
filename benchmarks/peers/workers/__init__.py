"""Processes that each hold one contender."""
