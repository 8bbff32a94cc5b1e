"""Many pieces of work at once from a source that may never end; results in order, memory bounded."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Final, TypeVar

from fathom_client.errors import FathomError

_WINDOW: Final = 4
"""So many items for each that is worked on may wait behind a slow one, done or not, before no more are read."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(items: Iterable[Item], work: Callable[[Item], Result], concurrency: int) -> Generator[Result, None, None]:
    """Give each item's result as soon as it and those before are there, while a thread reads further items.

    ``concurrency`` items are worked on at once. What ``work`` raises comes in its place; a FathomError of ``items``
    after the last result. Closing the iterator drops what has not begun; who closes it ends what runs.
    """
    results: SimpleQueue[Future[Result] | None] = SimpleQueue()
    places = Semaphore(_WINDOW * concurrency)
    workers = ThreadPoolExecutor(concurrency, thread_name_prefix="line")

    def read() -> None:
        try:
            for item in items:
                places.acquire()
                try:
                    results.put(workers.submit(work, item))
                except RuntimeError:  # the iterator was closed
                    return
        except FathomError as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            results.put(failed)
        results.put(None)

    # it may wait for input for ever, so the interpreter must not wait for it
    Thread(target=read, name="lines", daemon=True).start()
    try:
        while (result := results.get()) is not None:
            yield result.result()
            places.release()
    finally:
        workers.shutdown(wait=False, cancel_futures=True)
        places.release()
