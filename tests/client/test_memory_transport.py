"""The transport that applications test with: real clients, no server."""

import doctest
import json

import numpy as np
import pytest

import fathom_client.testing
from fathom_client import (
    AsyncClient,
    Client,
    ClientClosedError,
    DeadlineExceededError,
    FathomError,
    InvalidArgumentError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestCancelledError,
    Retry,
    ServerError,
    ServerUnavailableError,
    StreamBrokenError,
)
from fathom_client.testing import (
    MemoryTransport,
    ReceivedRequest,
    ScriptedClassifier,
    ScriptedEmbedder,
    ScriptedGenerator,
    ScriptedReranker,
    ScriptedTokenizer,
)


def length(text: str) -> list[float]:
    """A vector of two numbers; texts of more than nine characters are refused."""
    if len(text) > 9:
        raise InvalidRequestError(f"{len(text)} tokens; at most 9 fit")
    return [float(len(text)), 1.0]


def test_example_in_the_docstring_runs() -> None:
    """The module's own example is true."""
    source = "\n".join(line[4:] for line in (fathom_client.testing.__doc__ or "").splitlines() if line[:4] == "    ")
    assert "client.generate" in source
    exec(compile(source, "example", "exec"), {})  # noqa: S102 # our own docstring
    assert doctest.testmod(fathom_client.testing).failed == 0


async def test_replies_come_in_order() -> None:
    """Text, chunks, an error, a function of the request: each request takes the next, the last one stays."""
    replies = "Hello big world", ["one", "two"], OverloadedError("the queue is full"), lambda request: request.text * 2
    with Client(transport=MemoryTransport({"chat": ScriptedGenerator(*replies)})) as client:
        assert [chunk.text for chunk in client.stream("chat", "a")] == ["Hello ", "big ", "world"]
        answer = client.generate("chat", "some words here")
        assert (answer.text, answer.num_input_tokens, answer.num_output_tokens) == ("onetwo", 3, 2)
        with pytest.raises(OverloadedError, match="the queue is full"):
            client.generate("chat", "a")
        assert [client.generate("chat", text).text for text in ("x", "y")] == ["xx", "yy"]
    transport = MemoryTransport({"chat": ScriptedGenerator(*replies)})
    async with AsyncClient(transport=transport) as async_client:
        stream = async_client.stream("chat", "a")
        assert [chunk.text async for chunk in stream] == ["Hello ", "big ", "world"]
        assert (await stream.result()).finish_reason == "stop"
        assert (await async_client.chat("chat", [{"role": "user", "content": "hi"}])).text == "onetwo"
        with pytest.raises(OverloadedError):
            await async_client.generate("chat", "a")


def test_answers_end_at_max_tokens_and_come_n_times() -> None:
    """``max_tokens`` and ``n`` do what they do at a server, streamed and whole."""
    with Client(transport=MemoryTransport({"chat": ScriptedGenerator("a b c d")})) as client:
        short = client.generate("chat", "x", max_tokens=2)
        assert (short.text, short.finish_reason) == ("a b ", "length")
        for choices in (
            client.generate("chat", "x", n=2, temperature=1).choices,
            client.stream("chat", "x", n=2, temperature=1).result().choices,
        ):
            assert [(choice.index, choice.text) for choice in choices] == [(0, "a b c d"), (1, "a b c d")]


ERRORS = [
    InvalidRequestError("top_k is 7"),
    ModelNotFoundError("no such adapter"),
    DeadlineExceededError("late"),
    RequestCancelledError("dropped"),
    ServerUnavailableError("stopping"),
    OverloadedError("full"),
    ServerError("a bug"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_each_error_arrives_as_itself(error: FathomError) -> None:
    """An error in a script is that error at the client, from generations and from encoders."""

    def fails(text: str) -> list[float]:
        raise error

    transport = MemoryTransport({"chat": ScriptedGenerator(error), "minilm": ScriptedEmbedder(fails)})
    with Client(transport=transport) as client:
        for call in (client.generate, client.embed):
            with pytest.raises(type(error)) as caught:
                call({"generate": "chat", "embed": "minilm"}[call.__name__], "a")
            assert type(caught.value) is type(error)
    async with AsyncClient(transport=transport) as async_client:
        with pytest.raises(type(error)):
            await async_client.generate("chat", "a")
        with pytest.raises(type(error)):
            await async_client.embed("minilm", "a")


async def test_stream_breaks_where_the_script_says() -> None:
    """An error among the chunks comes after those before it; a server that leaves is a broken stream."""
    script = ["one ", "two ", ServerUnavailableError("gone")], ["one ", ServerError("a bug")]
    with Client(transport=MemoryTransport({"chat": ScriptedGenerator(*script)}), retry=Retry()) as client:
        stream = client.stream("chat", "a")
        assert [next(stream).text, next(stream).text] == ["one ", "two "]
        with pytest.raises(StreamBrokenError, match="broke off after 2 tokens"):
            next(stream)
        with pytest.raises(ServerError, match="a bug"):
            client.stream("chat", "a").result()
    async with AsyncClient(transport=MemoryTransport({"chat": ScriptedGenerator(*script)})) as async_client:
        with pytest.raises(StreamBrokenError):
            await async_client.stream("chat", "a").result()


async def test_application_code_sees_its_retries() -> None:
    """A client with ``Retry`` gets over refusals, in memory as over the network."""
    chat = ScriptedGenerator(OverloadedError("full"), OverloadedError("full"), "at last")
    retry = Retry(first_pause_s=0.001)
    with Client(transport=MemoryTransport({"chat": chat}), retry=retry) as client:
        assert client.generate("chat", "a").text == "at last"
    chat = ScriptedGenerator(OverloadedError("full"), "at last")
    async with AsyncClient(transport=MemoryTransport({"chat": chat}), retry=retry) as async_client:
        assert (await async_client.generate("chat", "a")).text == "at last"
    assert len(chat.requests) == 2


async def test_encoders_answer_by_functions() -> None:
    """Vectors, scores and labels are those that the functions give, in batches and order; refusals are told apart."""
    transport = MemoryTransport(
        {
            "minilm": ScriptedEmbedder(length),
            "reranker": ScriptedReranker(lambda query, document: document.count(query)),
            "moods": ScriptedClassifier(["low", "high"], lambda text: [0.25, 0.75]),
        }
    )
    texts = ["x" * (number % 9 + 1) for number in range(100)]
    with Client(transport=transport) as client:
        embeddings = client.embed("minilm", texts)
        np.testing.assert_array_equal(embeddings.vectors, np.array([length(text) for text in texts], dtype=np.float32))
        assert client.rerank("reranker", "a", ["bab", "aa", "b"]).order == (1, 0, 2)
        assert client.classify("moods", ["a", "b"]).top_labels == ("high", "high")
        outcomes = client.embed_many("minilm", ["good", "much too long"])
        assert [type(outcome).__name__ for outcome in outcomes] == ["Embeddings", "InvalidRequestError"]
    async with AsyncClient(transport=transport) as async_client:
        assert (await async_client.embed("minilm", texts)).vectors.tolist() == embeddings.vectors.tolist()
        with pytest.raises(InvalidRequestError, match="13 tokens"):
            await async_client.embed("minilm", "much too long")


async def test_tokenizer_answers_by_functions() -> None:
    """Ids, their number and the text of ids are what the functions give, for texts and conversations."""
    characters = ScriptedTokenizer(lambda text: [*map(ord, text)], lambda ids: "".join(map(chr, ids)))
    transport = MemoryTransport({"chat_tokenizer": characters})
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "é"}]
    with Client(transport=transport) as client:
        assert client.tokenize("chat", "aé").token_ids == (97, 233)
        assert client.count_tokens("chat", messages) == 3
        assert client.count_tokens("chat", messages, tools=[{"type": "function"}]) == 3
        assert client.detokenize("chat", (97, 233)) == "aé"
    async with AsyncClient(transport=transport) as async_client:
        assert (await async_client.tokenize("chat", messages)).token_ids == (97, 10, 233)
        assert await async_client.detokenize("chat", [233]) == "é"
    assert characters.requests[2].messages == {"messages": messages, "tools": [{"type": "function"}]}


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([], "token_ids is empty"),
        ([-1], "token_ids has the token id -1"),
        ("a", "token_ids is a str .*give a list of int"),
    ],
)
def test_ids_that_are_none_are_refused(token_ids: list, message: str) -> None:
    """What cannot be token ids is named here, with nothing sent."""
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidArgumentError, match=message):
        client.detokenize("chat", token_ids)


def test_requests_are_kept_as_a_server_gets_them() -> None:
    """A test sees prompt, options, parameters and metadata of each request under the protocol's names."""
    chat = ScriptedGenerator("ok")
    with Client(transport=MemoryTransport({"chat": chat}), api_key="key", timeout=5) as client:
        client.generate("chat", "Hi", max_tokens=7, temperature=0.5, seed=2**63, stop=["ä", "b"], request_id="mine")
        client.chat("chat", [{"role": "user", "content": "hé"}], n=2, temperature=1)
        client.generate("chat", [1, 2, 3])
    first, second, third = chat.requests
    assert isinstance(first, ReceivedRequest)
    assert (first.model, first.request_id, first.text, first.messages) == ("chat", "mine", "Hi", None)
    assert first.inputs["max_tokens"] == [7]
    assert first.inputs["temperature"] == [0.5]
    assert first.inputs["seed"] == [2**63]
    assert first.inputs["stop_words"] == ["ä", "b"]
    assert first.inputs["stream"] == [False]
    assert first.parameters["timeout"] == 5_000_000
    assert first.metadata["authorization"] == "Bearer key"
    assert second.messages == [{"role": "user", "content": "hé"}]
    assert second.sampling_parameters == {"n": 2} == json.loads(second.inputs["sampling_parameters"][0])
    assert third.inputs["input_ids"] == [1, 2, 3]


async def test_server_of_scripts_is_a_server() -> None:
    """Health, metadata and loading work as at a Triton; a model that is not there is named with those that are."""
    transport = MemoryTransport({"chat": ScriptedGenerator("ok"), "minilm": ScriptedEmbedder(length)})
    with Client(transport=transport) as client:
        client.wait_until_ready(1)
        assert client.is_live()
        assert client.server_metadata().name == "fathom_client.testing"
        assert client.model_metadata("chat").name == "chat"
        assert client.model_config("minilm").max_batch_size == 32
        with pytest.raises(ModelNotFoundError, match="models that are ready: chat, minilm"):
            client.generate("nobody", "a")
        with pytest.raises(InvalidRequestError, match="generates and does not embed"):
            client.embed("chat", "a", batch_size=1)
        with pytest.raises(InvalidRequestError, match="inputs"):
            client.generate("minilm", "a")
        client.unload_model("chat")
        assert [(model.name, model.is_ready) for model in client.models()] == [("chat", False), ("minilm", True)]
        assert not client.is_ready("chat")
        client.load_model("chat")
        with pytest.raises(InvalidRequestError, match="nobody"):
            client.load_model("nobody")
        with pytest.raises(ServerError, match="UNIMPLEMENTED"):
            client._ask("CudaSharedMemoryStatus", None)  # no public method asks for more
        client.generate("chat", "a")
        with pytest.raises(InvalidRequestError):
            client.embed("minilm", "much too long")
        counted = [(stats.name, stats.num_succeeded, stats.num_failed) for stats in client.statistics()]
        assert counted == [("chat", 1, 0), ("minilm", 0, 1)]
    async with AsyncClient(transport=transport) as async_client:
        assert await async_client.is_ready("chat")
        assert [model.name for model in await async_client.models()] == ["chat", "minilm"]


async def test_leaving_and_closing_work_as_over_the_network() -> None:
    """A closed stream raises when it is read on, and a closed client refuses."""
    transport = MemoryTransport({"chat": ScriptedGenerator("one two three")})
    client = Client(transport=transport)
    stream = client.stream("chat", "a")
    next(stream)
    stream.close()
    with pytest.raises(RequestCancelledError):
        next(stream)
    client.close()
    with pytest.raises(ClientClosedError):
        client.generate("chat", "a")
    async_client = AsyncClient(transport=transport)
    async with async_client.stream("chat", "a") as async_stream:
        await anext(async_stream)
    with pytest.raises(RequestCancelledError):
        await async_stream.result()
    await async_client.close()
    with pytest.raises(ClientClosedError):
        await async_client.models()


def test_script_without_replies_is_refused() -> None:
    """A generator needs something to say."""
    with pytest.raises(InvalidArgumentError, match="needs a reply"):
        ScriptedGenerator()
