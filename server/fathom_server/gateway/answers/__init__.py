"""Answers of generations in the form of OpenAI's API, whole or as streams of server-sent events."""
