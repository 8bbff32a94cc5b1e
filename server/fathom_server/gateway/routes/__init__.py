"""The API's endpoints, a file each; every one gives a ``router``."""
