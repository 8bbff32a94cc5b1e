"""``/v1/embeddings`` and ``/v1/rerank``, through OpenAI's own SDK and as plain HTTP."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from tests.gateway_process import GatewayProcess
from tests.serving import FathomServe

from fathom_client import Client

TEXTS = ["How do I cook rice?", "Wie koche ich Reis?", "🍚"]


@pytest.fixture(scope="module")
def sdk(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK, which does not try again by itself."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def vectors(triton: FathomServe) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What Triton itself says."""
    with Client(triton.url) as client:
        return client.embed("minilm", TEXTS).vectors


@pytest.mark.parametrize("encoding_format", [openai.omit, "float", "base64"])
def test_the_sdk_gets_the_models_vectors(sdk: openai.OpenAI, vectors: Any, encoding_format: Any) -> None:
    """Each text's vector is the model's own to the bit, in order, in every form that the SDK asks for."""
    answer = sdk.embeddings.create(model="minilm", input=TEXTS, encoding_format=encoding_format)
    found = [each.embedding for each in answer.data]
    if encoding_format == "base64":
        found = [np.frombuffer(base64.b64decode(str(each)), dtype="<f4") for each in found]
    assert np.array_equal(np.asarray(found, dtype=np.float32), vectors)
    assert [each.index for each in answer.data] == [0, 1, 2]
    assert (answer.object, answer.data[0].object, answer.model) == ("list", "embedding", "minilm")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, TEXTS))


def test_a_single_text_is_a_list_of_one(sdk: openai.OpenAI, vectors: Any) -> None:
    """A string alone gives one vector."""
    answer = sdk.embeddings.create(model="minilm", input=TEXTS[0], encoding_format="float")
    assert np.array_equal(np.asarray([answer.data[0].embedding], dtype=np.float32), vectors[:1])


def test_many_texts_keep_their_order(sdk: openai.OpenAI, triton: FathomServe) -> None:
    """As many as OpenAI takes, in the batches that the model takes."""
    texts = [f"text {number}" for number in range(2048)]
    answer = sdk.embeddings.create(model="minilm", input=texts)
    with Client(triton.url) as client:
        expected = client.embed("minilm", [texts[0], texts[1000], texts[-1]]).vectors
    found = np.asarray([answer.data[each].embedding for each in (0, 1000, 2047)], dtype=np.float32)
    assert np.array_equal(found, expected)


def test_a_models_own_number_of_dimensions_is_accepted_and_no_other(sdk: openai.OpenAI) -> None:
    """Vectors are not cut: a wish for fewer is refused, naming the field and what there is."""
    assert len(sdk.embeddings.create(model="minilm", input="a", dimensions=8).data[0].embedding) == 8
    with pytest.raises(openai.BadRequestError, match="have 8 dimensions and are not cut to 4") as caught:
        sdk.embeddings.create(model="minilm", input="a", dimensions=4)
    assert caught.value.param == "dimensions"


def test_prompts_and_truncation_reach_the_model(sdk: openai.OpenAI, triton: FathomServe) -> None:
    """What Fathom's models take besides OpenAI's fields is taken as further fields."""
    long = "x" * 600
    with pytest.raises(openai.BadRequestError, match="text_input has 600 tokens; at most 512 fit"):
        sdk.embeddings.create(model="minilm", input=long)
    extra = {"prompt_name": "query", "truncate": True}
    answer = sdk.embeddings.create(model="minilm", input=long, encoding_format="float", extra_body=extra)
    with Client(triton.url) as client:
        expected = client.embed("minilm", long, prompt_name="query", truncate=True).vectors[0]
    assert np.array_equal(np.asarray(answer.data[0].embedding, dtype=np.float32), expected)


@pytest.mark.parametrize(
    ("body", "param", "fault"),
    [
        ({"input": [1, 2, 3]}, "input", "token ids are not taken"),
        ({"input": [[1], [2]]}, "input", "token ids are not taken"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": ["a", ""]}, "input[1]", "at least 1 character"),
        ({"input": ["a"] * 2049}, "input", "at most 2048 items"),
        ({"input": 7}, "input", "string"),
        ({"input": None}, "input", "string"),
        ({}, "input", "input is missing"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "integer"),
        ({"input": "a", "nonsense": 1}, "nonsense", "not a field"),
        ({"input": "a", "model": ""}, "model", "at least 1 character"),
        ({"input": "a", "truncate": "yes"}, "truncate", "boolean"),
    ],
)
def test_a_wrong_request_for_embeddings_names_its_field(
    gateway: GatewayProcess, body: dict[str, Any], param: str, fault: str
) -> None:
    """Each fault is a 400 of OpenAI's form with the field's path."""
    answer = gateway.ask("POST", "/v1/embeddings", {"model": "minilm", **body})
    assert (answer.status, answer.error["param"]) == (400, param)
    assert fault in answer.error["message"]


@pytest.mark.parametrize("model", ["nobody", "chat", "moods", "reranker", "../minilm", "minilm/versions/1"])
def test_a_model_that_does_not_embed_is_not_found(gateway: GatewayProcess, model: str) -> None:
    """A model that is not there, and one of another kind, are the caller's fault and not the server's."""
    answer = gateway.ask("POST", "/v1/embeddings", {"model": model, "input": "a"})
    assert (answer.status, answer.error["param"], answer.error["code"]) == (404, "model", "model_not_found")
    assert rerank(gateway, model="minilm").status == 404


def rerank(gateway: GatewayProcess, **fields: Any) -> Any:
    body = {"model": "reranker", "query": "red apple", "documents": ["a pear", "red apple pie", "red car"], **fields}
    return gateway.ask("POST", "/v1/rerank", body)


def test_documents_are_given_back_the_best_first(gateway: GatewayProcess) -> None:
    """Positions and the model's own scores, in order, with the tokens that were read."""
    answer = rerank(gateway)
    results = answer.json()["results"]
    assert [(each["index"], each["relevance_score"]) for each in results] == [(1, 1.0), (2, 0.5), (0, 0.0)]
    assert all(each.keys() == {"index", "relevance_score"} for each in results)
    assert answer.json()["usage"] == {"prompt_tokens": 13, "total_tokens": 13}
    assert answer.json()["id"] == answer.headers["x-request-id"]


def test_only_the_best_are_given_with_their_texts_if_asked(gateway: GatewayProcess) -> None:
    """``top_n`` cuts the list, ``return_documents`` adds texts, and documents may be objects."""
    documents = ["a pear", {"text": "red apple pie"}, "red car"]
    results = rerank(gateway, documents=documents, top_n=2, return_documents=True).json()["results"]
    assert results == [
        {"index": 1, "relevance_score": 1.0, "document": {"text": "red apple pie"}},
        {"index": 2, "relevance_score": 0.5, "document": {"text": "red car"}},
    ]
    assert len(rerank(gateway, top_n=99).json()["results"]) == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", ""]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"documents": [{"text": "a", "title": "a"}]}, "documents[0].title"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"query": ["a"]}, "query"),
        ({"return_documents": 1}, "return_documents"),
        ({"max_chunks_per_doc": 1}, "max_chunks_per_doc"),
    ],
)
def test_a_wrong_request_for_a_ranking_names_its_field(gateway: GatewayProcess, fields: Any, param: str) -> None:
    """Each fault is a 400 of OpenAI's form with the field's path."""
    answer = rerank(gateway, **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_pairs_that_are_too_long_are_refused_or_cut(gateway: GatewayProcess) -> None:
    """The model's limit is told; ``truncate`` keeps within it."""
    long = ["red " * 100]
    assert "at most 64 fit" in rerank(gateway, documents=long).error["message"]
    assert rerank(gateway, documents=long, truncate=True).json()["usage"]["total_tokens"] == 64
