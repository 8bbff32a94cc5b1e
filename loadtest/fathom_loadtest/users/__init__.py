"""Locust users: each sends one request after the other and records what happened."""
