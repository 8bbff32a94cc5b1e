"""What a type checker must see in an application's code; read by test_typing.py, never run."""

from collections.abc import Sequence
from typing import assert_type

import numpy as np
import numpy.typing as npt

from fathom_client import (
    AsyncClient,
    AsyncGenerationStream,
    Classification,
    Client,
    Embeddings,
    FathomError,
    Generation,
    GenerationChunk,
    GenerationStream,
    Message,
    ModelInfo,
    Rerank,
    Retry,
    Tls,
    Tokenization,
)
from fathom_client.testing import MemoryTransport, ReceivedRequest, ScriptedGenerator

FLOATS = npt.NDArray[np.float32]


def sync(client: Client, texts: Sequence[str]) -> None:
    assert_type(client.generate("chat", "a", max_tokens=1, stop=("b",)), Generation)
    assert_type(client.generate("chat", [1, 2]).choices[0].cumulative_logprob, float | None)
    assert_type(client.stream_chat("chat", [Message("user", "a"), {"role": "user", "content": "b"}]), GenerationStream)
    with client.stream("chat", "a") as stream:
        assert_type(stream, GenerationStream)
        for chunk in stream:
            assert_type(chunk, GenerationChunk)
            assert_type(chunk.text, str)
    assert_type(client.embed("minilm", texts).vectors, FLOATS)
    assert_type(client.rerank("reranker", "a", texts), Rerank)
    assert_type(client.classify("moods", "a").top_labels, tuple[str, ...])
    assert_type(client.generate_many("chat", texts, seed=1), list[Generation | FathomError])
    assert_type(client.embed_many("minilm", texts), list[Embeddings | FathomError])
    assert_type(client.classify_many("moods", texts), list[Classification | FathomError])
    assert_type(client.tokenize("chat", "a"), Tokenization)
    assert_type(client.count_tokens("chat", [Message("user", "a")]), int)
    assert_type(client.detokenize("chat", [1]), str)
    assert_type(client.models(), tuple[ModelInfo, ...])


async def awaited(client: AsyncClient, texts: Sequence[str]) -> None:
    assert_type(await client.generate("chat", "a"), Generation)
    assert_type(client.stream("chat", "a"), AsyncGenerationStream)
    async for chunk in client.stream_chat("chat", [Message("user", "a")], temperature=0.5):
        assert_type(chunk, GenerationChunk)
    assert_type((await client.embed("minilm", texts)).vectors, FLOATS)
    assert_type(await client.generate_many("chat", texts), list[Generation | FathomError])
    assert_type(await client.count_tokens("chat", "a"), int)


def made(tls: Tls) -> None:
    assert_type(Client(["a:1", "b:1"], tls=tls, retry=Retry(attempts=3), timeout=5), Client)

    def reply(request: ReceivedRequest) -> str:
        return request.text or ""

    assert_type(AsyncClient(transport=MemoryTransport({"chat": ScriptedGenerator("a", ["b"], reply)})), AsyncClient)


def mistakes(client: Client) -> None:
    client.generate("chat", "a", max_tokens="7")  # E: arg-type
    client.generate("chat", "a", temprature=1)  # E: call-arg
    client.generate("chat", 7)  # E: arg-type
    client.embed("minilm", [1])  # E: list-item
    Client(retry=3)  # E: arg-type
    Client(tls=True)  # E: arg-type
    for outcome in client.generate_many("chat", ["a"]):
        print(outcome.text)  # E: union-attr
