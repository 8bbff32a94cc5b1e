"""Tasks of asyncio: several that belong together, and whose cancellation is whose."""

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def gather(tasks: list[asyncio.Task[T]]) -> list[T]:
    """Wait for all tasks; where one fails, or the wait is cancelled, the others are cancelled."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def is_task_cancelled() -> bool:
    """Whether a CancelledError is meant for the running task, rather than gRPC's word for a call cancelled here."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
