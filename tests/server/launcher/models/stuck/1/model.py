"""A model that never comes back from a request and never lets go of Python's lock."""

import os
import re


class TritonPythonModel:
    """Stuck as soon as it is asked."""

    def execute(self, requests):
        """Match for longer than anybody lives, in one call that holds the lock, and give up the processor meanwhile."""
        os.nice(19)
        re.match(r"(a+)+$", "a" * 80 + "b")
