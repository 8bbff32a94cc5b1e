"""Locust users: each sends one request after the other, as its phase gives them, and records what happened."""
