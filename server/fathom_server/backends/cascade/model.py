"""Triton's adaptor of a cascade: requests in, responses out, callers who leave; what it decides is in ``cascade/``."""

import asyncio
import gc
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from fathom_client import protocol
from fathom_server.backends.cascade.metrics_export import CascadeMetricsExport
from fathom_server.backends.fathom.generate_request import refuse_unknown_parameters
from fathom_server.backends.fathom.refusals import REFUSE_AFTER_S
from fathom_server.backends.fathom.transport import TritonTransport
from fathom_server.cascade.address import own_server
from fathom_server.cascade.cascade import Cascade
from fathom_server.cascade.evidence import TensorValues
from fathom_server.cascade.helpers import Helpers
from fathom_server.cascade.hook import load_hook
from fathom_server.cascade.model_behind import ModelBehind
from fathom_server.cascade.question import Question
from fathom_server.cascade.settings import HOOK_FILE, CascadeSettings
from fathom_server.errors import (
    CancelledRequestError,
    EngineFailureError,
    QueueFullError,
    RequestError,
    ShuttingDownError,
)

logger: Final = logging.getLogger("fathom.cascade")

_MICROSECONDS: Final = 1e6
_SENDERS: Final = 4
_WATCH_INTERVAL_S: Final = 0.02
_WATCH_INTERVAL_EACH_S: Final = 0.001
"""For each request that is asked about: a question costs a message to Triton's own process."""

_PARAMETERS: Final = (protocol.CLIENT_PARAMETER, protocol.PRECISION_PARAMETER, protocol.TASK_PARAMETER)


class _Sink:
    """Sends one answer through Triton, on a thread, since sending waits for Triton."""

    def __init__(self, transport: TritonTransport, senders: ThreadPoolExecutor) -> None:
        self._transport = transport
        self._senders = senders

    async def send(self, tensors: TensorValues, *, is_last: bool) -> None:
        """See ``AnswerSink``. What has been begun is finished: nothing may be sent after an answer's end."""
        loop = asyncio.get_running_loop()
        sending = loop.run_in_executor(self._senders, lambda: self._transport.send_tensors(tensors, is_last=is_last))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait([sending])
            raise


class TritonPythonModel:
    """One served cascade. Requests live on an event loop of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings and start the loop; the models behind are connected to when they are first asked."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        folder = Path(args["model_repository"]) / args["model_version"]
        self._settings = CascadeSettings.load(folder)
        hook = load_hook(folder / HOOK_FILE) if self._settings.signal == "hook" else None
        self._senders = ThreadPoolExecutor(_SENDERS, thread_name_prefix="fathom-senders")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fathom-cascade", daemon=True)
        self._thread.start()
        self._requests: dict[asyncio.Task[None], TritonTransport] = {}
        own = own_server()

        async def connect() -> None:
            settings = self._settings
            self._small = ModelBehind(settings.small, own.url, own.tls)
            if settings.large_url:
                self._large = ModelBehind(settings.large, settings.large_url)
            else:
                self._large = ModelBehind(settings.large, own.url, own.tls)
            asks_encoders = settings.needs_encoder or settings.signal == "verifier"
            self._helpers = Helpers(own.url, settings.encoder, settings.verifier, own.tls) if asks_encoders else None
            self._cascade = Cascade(settings, self._small, self._large, self._helpers, hook)
            self._watch = asyncio.create_task(self._watch_callers())

        asyncio.run_coroutine_threadsafe(connect(), self._loop).result()
        self._metrics = CascadeMetricsExport(self._cascade.metrics, args["model_name"])

    def execute(self, requests: list[Any]) -> None:
        """Start each request on the loop; its answer is sent when it comes."""
        for request in requests:
            transport = TritonTransport(request)
            question: Question | RequestError
            try:
                parameters = json.loads(request.parameters() or "{}")
                refuse_unknown_parameters(parameters, known=_PARAMETERS)
                timeout_us = request.timeout()
                question = Question(
                    request.request_id(),
                    # a copy: Triton's memory is gone when this returns
                    {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()},
                    parameters,
                    timeout_us / _MICROSECONDS if timeout_us > 0 else self._settings.timeout_s,
                )
            except RequestError as error:
                question = error
            except Exception:
                logger.exception("request %s could not be read", request.request_id())
                question = EngineFailureError(f"the request could not be read (id {request.request_id()})")
            self._loop.call_soon_threadsafe(self._start, question, transport)

    def finalize(self) -> None:
        """End whatever is still running and send the last responses."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._senders.shutdown()
        # what Triton lent (senders, metrics) must be gone before its process is: a late destructor would crash the stub
        self._metrics.close()
        del self._metrics, self._cascade, self._requests
        gc.collect()

    def _start(self, question: Question | RequestError, transport: TritonTransport) -> None:
        task = self._loop.create_task(self._answer(question, transport))
        self._requests[task] = transport
        task.add_done_callback(lambda done: self._requests.pop(done, None))

    async def _answer(self, question: Question | RequestError, transport: TritonTransport) -> None:
        """Answer one request, or tell its caller why not."""
        try:
            if isinstance(question, RequestError):
                await asyncio.sleep(REFUSE_AFTER_S)  # backends/fathom/refusals.py tells why
                raise question
            if self._cascade.metrics.running >= self._settings.max_requests:
                await asyncio.sleep(REFUSE_AFTER_S)
                raise QueueFullError(
                    f"the queue is full ({self._settings.max_requests} requests are under way: max_requests); try later"
                )
            self._cascade.metrics.running += 1
            try:
                self._metrics.refresh()
                await self._cascade.answer(question, _Sink(transport, self._senders))
            finally:
                self._cascade.metrics.running -= 1
        except RequestError as error:
            await self._fail(transport, error)
        except asyncio.CancelledError:
            closing = ShuttingDownError("the server is shutting down; the answer is not complete")
            await self._fail(transport, closing if self._watch.done() else CancelledRequestError("the caller left"))
        except Exception:
            request_id = question.request_id if isinstance(question, Question) else ""
            logger.exception("request %s failed", request_id)
            await self._fail(transport, EngineFailureError(f"the request failed; see the log (id {request_id})"))
        finally:
            self._metrics.refresh()

    async def _fail(self, transport: TritonTransport, error: RequestError) -> None:
        try:
            await self._loop.run_in_executor(self._senders, lambda: transport.fail(error))
        except Exception:  # a broken transport must not hide what went wrong
            logger.exception("an error could not be sent: %s", error)

    async def _watch_callers(self) -> None:
        """Cancel the requests of callers who have left: Triton knows, but tells nobody by itself."""
        while True:
            asked = list(self._requests.items())
            await asyncio.sleep(_WATCH_INTERVAL_S + _WATCH_INTERVAL_EACH_S * len(asked))
            for task, transport in asked:
                if not task.done() and await self._loop.run_in_executor(self._senders, transport.is_cancelled):
                    task.cancel()

    async def _close(self) -> None:
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        running = list(self._requests)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._small.close()
        await self._large.close()
        if self._helpers is not None:
            await self._helpers.close()
