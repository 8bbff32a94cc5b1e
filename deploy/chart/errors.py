"""What can be wrong with the chart's ``values.yaml``."""


class ChartError(Exception):
    """A value without an explanation, or an annotation that is none; the message names line and remedy."""
