"""What every test may use: a real ``fathom-serve``."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from tests.serving import FathomServe

# A suite that was started in the background inherits an ignored SIGINT and would hand it on to the tools that the tests
# interrupt; a process with a handler of its own hands on the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same code always gets the same verdict: property tests try the same examples every time. To look for new ones:
# pytest --hypothesis-profile=explore
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("repeatable")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FathomServe]]:
    """Start ``fathom-serve`` over a repository with further flags, ready; all are stopped at the test's end."""
    with ExitStack() as stack:
        count = 0

        def start(repository: Path, *arguments: str) -> FathomServe:
            nonlocal count
            count += 1
            return stack.enter_context(FathomServe(repository, tmp_path / f"serve-{count}", arguments))

        yield start
