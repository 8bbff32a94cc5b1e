"""The client for threads and greenlets."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, Unpack

from tritonclient.grpc import service_pb2

from fathom_client import _channel, _requests, _tokens, protocol
from fathom_client._address import DEFAULT_URL, check_urls
from fathom_client._limits import Keepalive, Limits
from fathom_client._lists import CONCURRENCY, check_list, item_options
from fathom_client._options import GenerateOptions, Message
from fathom_client._results import Generation, Tokenization
from fathom_client._retry import Retry
from fathom_client._status import CallContext
from fathom_client._streams import GenerationStream
from fathom_client._sync_encoders import EncoderCalls
from fathom_client._tensors import Tensor
from fathom_client._timeouts import Timeout, as_timeout, check_seconds
from fathom_client._tls import Tls
from fathom_client._transport import Transport
from fathom_client.errors import FathomError


class Client(EncoderCalls):
    """A connection to one server or to several; safe to share between threads, many requests at once.

    ``url`` is HOST:PORT of the gRPC service, or a list of them: requests go to the one that is healthy and has the
    fewest, and one that no server has begun to answer passes over to the next. Where a name has several addresses,
    they take turns. ``timeout`` is a Timeout, or the seconds for a whole answer, or None for no such limit.
    ``metadata`` goes with every call (lower-case names), for servers that ask for something; ``api_key`` goes as
    ``authorization: Bearer``. ``tls`` encrypts. ``retry`` tries again what no server took, and without it nothing is
    tried twice on the same server. ``keepalive`` pings, ``limits`` bounds messages, ``transport`` stands in for the
    network. The first call connects; proxies are those of the environment (``grpc_proxy``, ``https_proxy``,
    ``http_proxy``, ``no_grpc_proxy``, ``no_proxy``). Every method raises FathomError, see ``fathom_client.errors``.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout: Timeout | float | None = _channel.DEFAULT_TIMEOUT,
        metadata: Mapping[str, str] | None = None,
        api_key: str | None = None,
        tls: Tls | None = None,
        retry: Retry | None = None,
        keepalive: Keepalive | None = None,
        limits: Limits = _channel.DEFAULT_LIMITS,
        transport: Transport | None = None,
    ) -> None:
        urls = check_urls(url)
        settings = _channel.check_settings(as_timeout(timeout), tls, keepalive, limits, retry, transport)
        super().__init__(urls, settings, _channel.check_metadata(metadata, api_key))

    def __repr__(self) -> str:
        return f"Client({self._description})"

    def generate(self, model: str, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> Generation:
        """Return the whole answer to a text or to token ids."""
        return self._generate(model, _requests.text_prompt(prompt), False, options).result()

    def stream(self, model: str, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> GenerationStream:
        """Stream the answer to a text or to token ids; the request is sent now."""
        return self._generate(model, _requests.text_prompt(prompt), True, options)

    def chat(
        self, model: str, messages: Sequence[Message | Mapping[str, Any]], **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Return the whole answer to a conversation."""
        return self._generate(model, _requests.messages_prompt(messages, options), False, options).result()

    def stream_chat(
        self, model: str, messages: Sequence[Message | Mapping[str, Any]], **options: Unpack[GenerateOptions]
    ) -> GenerationStream:
        """Stream the answer to a conversation; the request is sent now."""
        return self._generate(model, _requests.messages_prompt(messages, options), True, options)

    def generate_many(
        self,
        model: str,
        prompts: Sequence[str | Sequence[int]],
        *,
        concurrency: int = CONCURRENCY,
        **options: Unpack[GenerateOptions],
    ) -> list[Generation | FathomError]:
        """Return for each text or list of token ids its answer, or the error that it met, in order.

        ``concurrency`` requests run at once, each with the options, and with its own time limit.
        """
        return self._generate_each(model, "prompts", prompts, _requests.text_item, concurrency, options)

    def chat_many(
        self,
        model: str,
        conversations: Sequence[Sequence[Message | Mapping[str, Any]]],
        *,
        concurrency: int = CONCURRENCY,
        **options: Unpack[GenerateOptions],
    ) -> list[Generation | FathomError]:
        """Return for each conversation its answer, or the error that it met, in order; see ``generate_many``."""
        return self._generate_each(
            model, "conversations", conversations, _requests.messages_prompt, concurrency, options
        )

    def tokenize(
        self,
        model: str,
        prompt: str | Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Tokenization:
        """Return the token ids of a text, or of a conversation in the model's chat template.

        They are what ``generate`` and ``chat`` give the model; ``tools`` and ``chat_template_kwargs`` are those of
        ``chat``. The LLM's tokenizer model is asked, which takes none of the LLM's time.
        """
        request = _tokens.tokenize_request(model, prompt, tools, chat_template_kwargs, protocol.INPUT_IDS)
        return _tokens.read_tokens(model, self._tokenizer(request, timeout_s))

    def count_tokens(
        self,
        model: str,
        prompt: str | Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Return how many tokens a text or a conversation has, see ``tokenize``."""
        request = _tokens.tokenize_request(model, prompt, tools, chat_template_kwargs, protocol.NUM_INPUT_TOKENS)
        return _tokens.read_count(model, self._tokenizer(request, timeout_s))

    def detokenize(self, model: str, token_ids: Sequence[int], *, timeout_s: float | None = None) -> str:
        """Return the text of token ids, without the tokenizer's special tokens."""
        return _tokens.read_text(model, self._tokenizer(_tokens.detokenize_request(model, token_ids), timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _generate(self, model: str, prompt: Tensor, stream: bool, options: GenerateOptions) -> GenerationStream:
        request, timeout_s = _requests.generate_request(model, prompt, stream, self._timeout.request_s, options)
        context = CallContext(self._url, model, request.id, timeout_s)
        return GenerationStream(
            lambda attempts: self._connection.open_stream(request, context, attempts),
            self._connection.attempts(_channel.deadline_s(timeout_s)),
            context,
            options.get("n") or 1,
            self._explain,
        )

    def _generate_each(
        self,
        model: str,
        name: str,
        items: object,
        prompt_of: Callable[[Any, GenerateOptions], Tensor],
        concurrency: int,
        options: GenerateOptions,
    ) -> list[Generation | FathomError]:
        prompts = check_list(name, items, concurrency)
        running: set[GenerationStream] = set()
        left = threading.Event()

        def answer(index: int) -> Generation | FathomError:
            try:
                stream = self._generate(model, prompt_of(prompts[index], options), False, item_options(options, index))
                running.add(stream)
                if left.is_set():
                    stream.close()
                try:
                    return stream.result()
                finally:
                    running.discard(stream)
            except FathomError as error:
                return error

        pool = ThreadPoolExecutor(max(1, min(concurrency, len(prompts))), "fathom-client")
        try:
            return list(pool.map(answer, range(len(prompts))))
        finally:
            left.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for stream in list(running):  # left early, by Ctrl-C for one
                stream.close()

    def _tokenizer(self, request: service_pb2.ModelInferRequest, timeout_s: float | None) -> Any:
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        limit_s = self._timeout.request_s if timeout_s is None else timeout_s
        _requests.set_timeout(request, limit_s)
        context = CallContext(self._url, request.model_name, request.id, limit_s)
        return self._call("ModelInfer", request, context, _channel.deadline_s(limit_s))
