"""Load from several processes, here or on other machines: a master leads, workers send, Locust carries the messages."""
