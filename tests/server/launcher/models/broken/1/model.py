"""A model that cannot be loaded."""


class TritonPythonModel:
    """Its weights are missing."""

    def initialize(self, args):
        """Fail, with a reason of two lines."""
        raise FileNotFoundError("the weights are\nnowhere to be found")
