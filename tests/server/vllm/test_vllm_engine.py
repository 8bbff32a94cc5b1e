"""The engine that asks vLLM, over an upstream that the test plays: what the Triton here cannot do, or should not."""

import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fathom_server.engine.request import Piece
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    EngineFailureError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
    ShuttingDownError,
)
from fathom_server.text.tokenizer import TextTokenizer
from fathom_server.vllm.engine import VllmEngine
from fathom_server.vllm.prompt_text import PromptTexts
from fathom_server.vllm.response import read_delta
from fathom_server.vllm.settings import VllmSettings
from fathom_server.vllm.upstream import Tensors, UpstreamError

WORDS = ("<s>", "</s>", "a", "b", "c", "d")
END_S = 10.0


def tokenizer(*, bos: bool = False, eos: bool = False) -> TextTokenizer:
    """One token a word; with ``<s>`` before each text, or ``</s>`` behind it."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="d"))
    made.add_special_tokens(["<s>", "</s>"])
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return TextTokenizer(made, {}, None, None)


class PlayedAnswer:
    """Responses that the test hands over one by one; None ends them."""

    def __init__(self, inputs: Tensors) -> None:
        self.inputs = inputs
        self.cancelled = threading.Event()
        self.responses: queue.SimpleQueue[Tensors | UpstreamError | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[Tensors]:
        while (response := self.responses.get(timeout=END_S)) is not None:
            if isinstance(response, UpstreamError):
                raise response
            yield response

    def cancel(self) -> None:
        self.cancelled.set()


class PlayedUpstream:
    """Hands each request's answer to the test."""

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[PlayedAnswer] = queue.SimpleQueue()
        self.refusal: UpstreamError | None = None
        self.closed = False

    def ask(self, request_id: str, inputs: Tensors) -> PlayedAnswer:
        if self.refusal is not None:
            raise self.refusal
        answer = PlayedAnswer(inputs)
        self.asked.put(answer)
        return answer

    def close(self) -> None:
        self.closed = True


class Sink:
    """What a request was given."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: RequestError | None = None
        self.ended = threading.Event()

    def on_piece(self, piece: Piece) -> None:
        assert not self.ended.is_set()
        self.pieces.append(piece)
        if piece.is_last:
            self.ended.set()

    def on_error(self, error: RequestError) -> None:
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()


def response(text: str, token: int, reason: str | None = None, **changed: Any) -> Tensors:
    """A response of one token, as the backend forms it."""
    logprobs = [{str(token): {"logprob": -1.5, "rank": 2, "decoded_token": text}}]
    tensors: dict[str, Any] = {
        "text_output": np.array([text.encode()], dtype=np.object_),
        "finish_reason": np.array([str(reason).encode()], dtype=np.object_),
        "logprobs": np.array([json.dumps(logprobs).encode()], dtype=np.object_),
        "num_input_tokens": np.array([2], dtype=np.uint32),
        "num_output_tokens": np.array([1], dtype=np.uint32),
    }
    return {name: value for name, value in (tensors | changed).items() if value is not None}


@pytest.fixture
def upstream() -> PlayedUpstream:
    """The vLLM that the test plays."""
    return PlayedUpstream()


@pytest.fixture
def engine(upstream: PlayedUpstream) -> Iterator[VllmEngine]:
    """An engine of at most two answers at once."""
    made = VllmEngine(upstream, VllmSettings("chat_vllm", 2, 16, 8, 30.0, 0), tokenizer())
    made.start()
    yield made
    made.stop()
    assert upstream.closed


def begin(engine: VllmEngine, upstream: PlayedUpstream, **options: Any) -> tuple[Any, Sink, PlayedAnswer]:
    """A request whose first token is there."""
    sink = Sink()
    timeout_s = options.pop("timeout_s", None)
    request = engine.submit("r", [2, 3], SamplingParameters(**options), sink, timeout_s)
    answer = upstream.asked.get(timeout=END_S)
    answer.responses.put(response("c", 4))
    return request, sink, answer


def test_who_leaves_is_answered_at_once_and_vllm_is_told(engine: VllmEngine, upstream: PlayedUpstream) -> None:
    """The caller's end does not wait for vLLM's; what vLLM still sends reaches nobody."""
    request, sink, answer = begin(engine, upstream)
    engine.cancel(request)
    assert sink.ended.wait(END_S)
    assert isinstance(sink.error, CancelledRequestError)
    assert answer.cancelled.wait(END_S)
    answer.responses.put(response("late", 5))
    answer.responses.put(UpstreamError("Request was cancelled"))
    engine.cancel(request)  # once more changes nothing
    assert engine.metrics.ends == {"cancelled": 1}


def test_who_leaves_before_vllm_answers_is_told_to_it_then(engine: VllmEngine, upstream: PlayedUpstream) -> None:
    """A request that ended while it was being sent is cancelled as soon as there is something to cancel."""
    sent, go = threading.Event(), threading.Event()
    ask = upstream.ask

    def slow(request_id: str, inputs: Tensors) -> PlayedAnswer:
        sent.set()
        assert go.wait(END_S)
        return ask(request_id, inputs)

    upstream.ask = slow  # type: ignore[method-assign]
    sink = Sink()
    request = engine.submit("r", [2], SamplingParameters(), sink)
    assert sent.wait(END_S)
    engine.cancel(request)
    go.set()
    answer = upstream.asked.get(timeout=END_S)
    assert answer.cancelled.wait(END_S)
    answer.responses.put(None)


def test_a_late_answer_ends_and_its_place_is_free_when_vllm_lets_go(
    engine: VllmEngine, upstream: PlayedUpstream
) -> None:
    """The error counts the tokens that were ready; until vLLM has ended, the request counts as with it."""
    _, sink, answer = begin(engine, upstream, timeout_s=0.05)
    assert sink.ended.wait(END_S)
    assert isinstance(sink.error, DeadlineError)
    assert answer.cancelled.wait(END_S)
    with pytest.raises(QueueFullError, match="1 answers are with vLLM or wait for it, of at most 2"):
        engine.submit("s", [2], SamplingParameters(n=2, temperature=1.0), Sink())
    answer.responses.put(None)


def test_a_stop_ends_all_with_an_error_that_sends_callers_elsewhere(upstream: PlayedUpstream) -> None:
    """Requests under way fail as shutting down, vLLM is told, and new ones are refused."""
    engine = VllmEngine(upstream, VllmSettings("chat_vllm", 2, 16, 8, 30.0, 0), tokenizer())
    engine.start()
    _, sink, answer = begin(engine, upstream)
    answer.responses.put(None)
    engine.stop()
    assert isinstance(sink.error, ShuttingDownError)
    assert answer.cancelled.is_set()
    with pytest.raises(ShuttingDownError):
        engine.submit("s", [2], SamplingParameters(), Sink())


@pytest.mark.parametrize(
    ("last", "kind", "part"),
    [
        (None, EngineFailureError, "could not be read"),
        (response("x", 5, "abort"), ShuttingDownError, "ended by 'abort'"),
        (response("x", 5, logprobs=None), EngineFailureError, "could not be read"),
        (response("x", 5, logprobs=np.array([b"null"], dtype=np.object_)), EngineFailureError, "could not be read"),
        (UpstreamError("CUDA out of memory"), EngineFailureError, "vLLM failed: CUDA out of memory"),
        (UpstreamError("not ready", is_unavailable=True), ShuttingDownError, "vLLM cannot answer now"),
        (UpstreamError("'NoneType' object has no attribute 'lora_name'"), InvalidRequestError, "sampling parameters"),
    ],
)
def test_an_answer_that_breaks_off_says_why(
    engine: VllmEngine, upstream: PlayedUpstream, last: Any, kind: type[RequestError], part: str
) -> None:
    """An end without a reason, a form that nobody knows and vLLM's own errors end the request, not the engine."""
    _, sink, answer = begin(engine, upstream)
    answer.responses.put(last)
    assert sink.ended.wait(END_S)
    assert isinstance(sink.error, kind)
    assert part in str(sink.error)
    answer.responses.put(None)
    _, sink, answer = begin(engine, upstream)
    answer.responses.put(response("d", 5, "stop"))
    answer.responses.put(None)
    assert sink.ended.wait(END_S)
    assert [piece.text for piece in sink.pieces] == ["c", "d"]
    assert sink.pieces[-1].finish_reason == "stop"


def test_a_vllm_that_is_not_there_is_unavailable(engine: VllmEngine, upstream: PlayedUpstream) -> None:
    """The request ends, and its place is free again."""
    upstream.refusal = UpstreamError("model is not ready", is_unavailable=True)
    for _ in range(3):
        sink = Sink()
        engine.submit("r", [2], SamplingParameters(), sink)
        assert sink.ended.wait(END_S)
        assert isinstance(sink.error, ShuttingDownError)
        while engine.load().running or engine.load().waiting:
            pass


def test_the_load_is_what_has_and_what_lacks_a_first_token(engine: VllmEngine, upstream: PlayedUpstream) -> None:
    """Gauges tell waiting from running; of the cache nothing is said."""
    engine.submit("r", [2], SamplingParameters(), Sink())
    waiting = upstream.asked.get(timeout=END_S)
    load = engine.load()
    assert (load.running, load.waiting, load.cache_usage) == (0, 1, None)
    waiting.responses.put(response("d", 5, "length"))
    waiting.responses.put(None)


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (False, True), (True, True)])
def test_vllms_tokenizer_makes_the_same_tokens_again(bos: bool, eos: bool) -> None:
    """What the tokenizer adds by itself is not in the text; a template's own special tokens are."""
    text = tokenizer(bos=bos, eos=eos)
    prompts = PromptTexts(text)
    for wanted in ("a b c", "a", "a <s> b"):
        ids = text.encode(wanted)
        assert text.encode(prompts.of(ids)) == ids
    if bos:
        assert "<s>" not in prompts.of(text.encode("a b"))
        with pytest.raises(InvalidRequestError, match="takes texts alone"):
            prompts.of([2, 3])  # without what every text gets


def test_ranks_order_the_likeliest_tokens() -> None:
    """The chosen token comes first in vLLM's JSON and in its rank among the likeliest; beyond those asked it is out."""
    listed = [{"7": {"logprob": -2.0, "rank": 3}, "5": {"logprob": -0.5, "rank": 1}, "9": {"logprob": -1.0, "rank": 2}}]
    tensors = response("x", 7, logprobs=np.array([json.dumps(listed).encode()], dtype=np.object_))
    (choice,) = read_delta(tensors, 2).choices
    assert (choice.token, choice.logprob) == (7, -2.0)
    assert [(each.token, each.logprob) for each in choice.top] == [(5, -0.5), (9, -1.0)]
