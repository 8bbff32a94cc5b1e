"""What can be wrong with the compose file and what belongs to it."""


class ComposeError(Exception):
    """A file that cannot be read, or a value that cannot be; the message names it and the remedy."""
