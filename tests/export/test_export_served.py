"""The exported models on a real Triton: tokenizer models, ensembles, warm-up."""

import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from sentence_transformers import SentenceTransformer
from tests.serving import FathomServe
from transformers import AutoTokenizer
from tritonclient.utils import InferenceServerException

from fathom_export.export_model import export_model
from fathom_export.spec import EmbedSpec, GenerateSpec

DATATYPES = {"bool": "BOOL", "int32": "INT32", "int64": "INT64", "object": "BYTES"}
MESSAGES = [{"role": "user", "content": "how are you?"}]

LIMITS = {"max_tokens": np.array([8], np.int32), "return_output_ids": np.array([True])}

Infer = Callable[..., dict[str, Any]]


class Quiet:
    """A reporter that shows nothing."""

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter``."""

    def advance(self, done: int, total: int) -> None:
        """See ``Reporter``."""


@pytest.fixture(scope="module")
def server(tiny_llm: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """One server over both tiny models, as export wrote them."""
    folder = tmp_path_factory.mktemp("served")
    for spec in (GenerateSpec("chat", str(tiny_llm)), EmbedSpec("embed", str(tiny_bert), limits={"max_batch": 4})):
        export_model(spec, Path(), folder / "repository", Quiet())
    with FathomServe(folder / "repository", folder / "log") as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def warmed(server: FathomServe) -> dict[str, int]:
    """Runs of each model before any request of a test."""
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        statistics = client.get_inference_statistics().model_stats
    return {model.name: model.execution_count for model in statistics}


@pytest.fixture(scope="module")
def client(server: FathomServe) -> Iterator[triton.InferenceServerClient]:
    """Triton's own client."""
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


@pytest.fixture
def infer(client: triton.InferenceServerClient) -> Infer:
    """Call a model that answers once, with all outputs that it gives."""

    def call(model: str, **tensors: Any) -> dict[str, Any]:
        result = client.infer(model, inputs_of(tensors), client_timeout=30)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    return call


def inputs_of(tensors: dict[str, Any]) -> list[triton.InferInput]:
    """Triton's inputs of arrays by name."""
    inputs = []
    for name, value in tensors.items():
        array = np.asarray(value, dtype=np.object_ if isinstance(value[0], bytes) else None)
        array = array.astype(np.object_) if array.dtype.kind == "S" else array
        tensor = triton.InferInput(name, array.shape, DATATYPES[str(array.dtype)])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def texts(*values: str | bytes) -> Any:
    """Texts as a batch of one each, [batch, 1]."""
    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
    return np.array(encoded, dtype=np.object_)[:, np.newaxis]


def generate(server: FathomServe, model: str, **tensors: Any) -> list[Any]:
    """All responses of a decoupled model; raises its error."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as own:
        own.start_stream(lambda result, error: answers.put(error or result))
        own.async_stream_infer(model, inputs_of(tensors), enable_empty_final_response=True)
        results: list[Any] = []
        while True:
            answer = answers.get(timeout=60)
            if isinstance(answer, Exception):
                raise answer
            if answer.as_numpy("text_output") is not None:
                results.append(answer)
            if answer.get_response().parameters["triton_final_response"].bool_param:
                return results


def test_text_and_messages_become_the_ids_that_transformers_gives(infer: Infer, tiny_llm: Path) -> None:
    """The tokenizer model's ids are those of transformers, special tokens and chat template included."""
    reference = AutoTokenizer.from_pretrained(tiny_llm)
    answer = infer("chat_tokenizer", text_input=["hello, how are you? 🙂 é".encode()])
    assert answer["input_ids"].tolist() == reference("hello, how are you? 🙂 é").input_ids
    assert answer["num_input_tokens"].tolist() == [len(answer["input_ids"])]
    answer = infer("chat_tokenizer", messages=[json.dumps(MESSAGES).encode()])
    expected = reference.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert answer["input_ids"].tolist() == expected


def test_ids_become_text_again_and_are_handed_on(infer: Infer) -> None:
    """output_ids give the text, without special tokens; input_ids come back as they are."""
    ids = infer("chat_tokenizer", text_input=["naïve 東京".encode()])["input_ids"]
    answer = infer("chat_tokenizer", output_ids=np.append(ids, [1]).astype(np.int32))
    assert answer["text_output"].tolist() == ["naïve 東京".encode()]
    assert infer("chat_tokenizer", input_ids=ids)["input_ids"].tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        ({}, "exactly one of text_input, messages, input_ids and output_ids"),
        ({"text_input": [b"a"], "messages": [b"[]"]}, "given: messages, text_input"),
        ({"text_input": [b""]}, "text_input is empty"),
        ({"text_input": [b"a\xff"]}, "text_input is not UTF-8: invalid start byte at byte 1"),
        ({"messages": [b"{"]}, "messages is not JSON"),
        ({"messages": [b"[]"]}, "messages must be a list of at least one"),
        ({"input_ids": np.array([1, 9999], np.int32)}, "input_ids holds 9999"),
        ({"output_ids": np.array([-1], np.int32)}, "output_ids holds -1"),
    ],
)
def test_the_tokenizer_refuses_what_the_caller_got_wrong(infer: Infer, tensors: dict[str, Any], part: str) -> None:
    """Each mistake is INVALID_ARGUMENT with what is wrong."""
    with pytest.raises(InferenceServerException, match=part) as caught:
        infer("chat_tokenizer", **tensors)
    assert "INVALID_ARGUMENT" in str(caught.value.status())


def test_the_ensemble_answers_as_the_engine_does(server: FathomServe) -> None:
    """Text, messages and ids, with and without further inputs, give the same through chat_ensemble as through chat."""
    prompts: list[dict[str, Any]] = [
        {"text_input": [b"hello"]},
        {"messages": [json.dumps(MESSAGES).encode()]},
        {"input_ids": np.array([5, 6, 7], np.int32)},
    ]
    for prompt in prompts:
        whole, through = (generate(server, model, **LIMITS, **prompt) for model in ("chat", "chat_ensemble"))
        assert len(whole) == len(through) == 1
        assert whole[0].as_numpy("output_ids").tolist() == through[0].as_numpy("output_ids").tolist()
        assert whole[0].as_numpy("output_ids").size > 0
    streamed = generate(server, "chat_ensemble", text_input=[b"hello"], stream=np.array([True]), **LIMITS)
    ids = [token for answer in streamed for token in answer.as_numpy("output_ids").tolist()]
    assert ids == generate(server, "chat", text_input=[b"hello"], **LIMITS)[0].as_numpy("output_ids").tolist()
    with pytest.raises(InferenceServerException, match="exactly one of"):
        generate(server, "chat_ensemble", **LIMITS)


def test_embeddings_through_the_ensemble_are_those_of_the_source(infer: Infer, tiny_bert: Path) -> None:
    """A batch of texts of several lengths gives sentence-transformers' embeddings and the numbers of tokens."""
    given = ["the cat sat on the mat", "home", "how do I reset my password"]
    answer = infer("embed", text_input=texts(*given))
    reference = SentenceTransformer(str(tiny_bert), device="cpu").encode(given)
    np.testing.assert_allclose(answer["sentence_embedding"], reference, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert answer["num_input_tokens"].tolist() == [[len(tokenizer(text).input_ids)] for text in given]


def test_rows_are_padded_to_a_multiple_of_16_or_the_limit(infer: Infer) -> None:
    """All rows of a request have the length of its longest one, rounded up, and the mask marks the padding."""
    answer = infer("embed_tokenizer", text_input=texts("home", "home " * 20))
    assert answer["input_ids"].shape == answer["attention_mask"].shape == (2, 32)
    assert answer["attention_mask"].sum(axis=1).tolist() == answer["num_input_tokens"][:, 0].tolist() == [3, 22]
    assert (answer["input_ids"][answer["attention_mask"] == 0] == 0).all()
    assert infer("embed_tokenizer", text_input=texts("home " * 46))["input_ids"].shape == (1, 48)


def test_a_text_that_is_too_long_is_refused_or_cut_where_asked(infer: Infer) -> None:
    """Without truncate the error names length and limit; with it the text keeps its special tokens at both ends."""
    long = texts("home " * 60)
    with pytest.raises(InferenceServerException, match="text 0 has 62 tokens; this model takes at most 48") as caught:
        infer("embed", text_input=long)
    assert "INVALID_ARGUMENT" in str(caught.value.status())
    cut = infer("embed_tokenizer", text_input=long, truncate=np.array([[True]]))
    row = cut["input_ids"][0].tolist()
    assert (len(row), row[0], row[-1]) == (48, 2, 3)
    assert infer("embed", text_input=long, truncate=np.array([[True]]))["num_input_tokens"].tolist() == [[48]]


@pytest.mark.parametrize(
    ("text", "part"),
    [(b"", "text 1 is empty"), (b" \n", "text 1 is empty"), (b"a\xc3", "text 1 is not UTF-8: unexpected end of data")],
)
def test_a_text_that_cannot_be_embedded_is_refused(infer: Infer, text: bytes, part: str) -> None:
    """Empty text and bytes that are not UTF-8 are named with their place in the request."""
    with pytest.raises(InferenceServerException, match=part) as caught:
        infer("embed", text_input=texts("fine", text))
    assert "INVALID_ARGUMENT" in str(caught.value.status())


def test_a_bad_request_does_not_harm_its_neighbours(client: triton.InferenceServerClient, infer: Infer) -> None:
    """Of many requests sent at once, every good one is answered right and every bad one refused."""
    expected = infer("embed", text_input=texts("the cat"))["sentence_embedding"]
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number in range(24):
        given = texts(b"" if number % 3 == 0 else b"the cat")

        def receive(result: Any, error: Any, number: int = number) -> None:
            answers.put((number, result, error))

        client.async_infer("embed", inputs_of({"text_input": given}), receive)
    for _ in range(24):
        number, result, error = answers.get(timeout=60)
        if number % 3 == 0:
            assert "text 0 is empty" in str(error)
        else:
            assert error is None
            np.testing.assert_allclose(result.as_numpy("sentence_embedding"), expected, atol=1e-5)


def test_triton_warms_the_models_up_before_they_are_ready(warmed: dict[str, int]) -> None:
    """A server that has had no request has run the engine and the encoder in every shape."""
    assert warmed["chat"] == 2
    assert warmed["embed_encoder"] == 4
