"""Sampling through the whole stack: every parameter does over the wire what it says."""

import json
import re
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from tests.serving import FathomServe
from transformers import AutoModelForCausalLM
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import np_to_triton_dtype

from fathom_client import Client, InvalidRequestError

LARGE = Path("examples/models/large").resolve()
PROMPT = "What is 17 + 25?"
MESSAGES = [{"role": "user", "content": PROMPT}]
HOT = {"temperature": 4.0, "seed": 5, "max_tokens": 24, "ignore_eos": True}

SETTINGS = [
    {"top_k": 40},
    {"top_p": 0.9},
    {"min_p": 0.02, "top_p": 0.99},
    {"typical_p": 0.9},
    {"repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    {"logit_bias": {7: 2.0, 9: -4.0}, "min_tokens": 4, "bad_words": ["the"]},
    {"top_k": 100, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.97, "logprobs": 3, "n": 2},
]


@pytest.fixture(scope="module")
def reference():
    return AutoModelForCausalLM.from_pretrained(LARGE, dtype=torch.float32).eval()


def log_softmax(reference, ids: list[int]) -> np.ndarray:
    """Log-probabilities of transformers' model at every position, float32 [len(ids), vocabulary]."""
    with torch.no_grad():
        return torch.log_softmax(reference(torch.tensor([ids])).logits[0], dim=-1).numpy()


def raw_answer(server: FathomServe, **tensors: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs that NVIDIA's client gets for tensors as they are."""
    inputs = []
    for name, value in tensors.items():
        inputs.append(InferInput(name, value.shape, np_to_triton_dtype(value.dtype)))
        inputs[-1].set_data_from_numpy(value)
    answers: list[tuple[object, object]] = []
    raw = InferenceServerClient(server.url)
    raw.start_stream(lambda result, error: answers.append((result, error)))
    raw.async_stream_infer("chat", inputs)
    raw.stop_stream()
    raw.close()
    result, error = answers[0]
    assert error is None, error
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def http_answer(server: FathomServe, **body: object) -> tuple[int, dict]:
    """Status and body of Triton's generate endpoint."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http_port}/v2/models/chat/generate",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(settings))
def test_a_seed_repeats_alone_and_in_company(client: Client, settings: dict) -> None:
    """The same seed gives the same answer alone, among 15 others of every kind, and streamed."""
    alone = client.generate("chat", PROMPT, **HOT, **settings).choices
    company = [{**HOT, **each, "seed": number} for number, each in enumerate(SETTINGS * 2)]
    with ThreadPoolExecutor(16) as pool:
        others = [
            pool.submit(client.generate, "chat", f"{index} {PROMPT}", **each) for index, each in enumerate(company)
        ]
        crowd = pool.submit(client.generate, "chat", PROMPT, **HOT, **settings).result().choices
        assert all(other.result().num_output_tokens >= 24 for other in others)
    with client.stream("chat", PROMPT, **HOT, **settings) as stream:
        streamed = stream.result().choices
    assert [choice.token_ids for choice in crowd] == [choice.token_ids for choice in alone]
    assert [choice.token_ids for choice in streamed] == [choice.token_ids for choice in alone]
    assert [choice.text for choice in streamed] == [choice.text for choice in alone]
    assert [choice.logprobs for choice in streamed] == [choice.logprobs for choice in alone]


def test_seeds_and_no_seed_differ(client: Client) -> None:
    """Other seeds and requests without one give other answers."""
    options = {**HOT, "temperature": 3.0}
    answers = {client.generate("chat", PROMPT, **{**options, "seed": seed}).token_ids for seed in (1, 2, None, None)}
    assert len(answers) == 4


def test_n_answers_are_those_of_their_indices(client: Client) -> None:
    """Of n answers each has its own random numbers; fewer of the same seed are the first of more."""
    four = client.generate("chat", PROMPT, n=4, **HOT).choices
    assert len({choice.token_ids for choice in four}) == 4
    two = client.generate("chat", PROMPT, n=2, **HOT).choices
    assert [choice.token_ids for choice in two] == [choice.token_ids for choice in four[:2]]
    assert client.generate("chat", PROMPT, **HOT).token_ids == four[0].token_ids


def test_best_of_gives_the_likeliest_a_token(client: Client) -> None:
    """Of best_of answers those of the highest log-probability a token come, the best first."""
    four = client.generate("chat", PROMPT, n=4, logprobs=0, **HOT).choices
    ranked = sorted(four, key=lambda choice: choice.cumulative_logprob / len(choice.token_ids), reverse=True)
    best = client.generate("chat", PROMPT, n=2, best_of=4, logprobs=0, **HOT).choices
    assert [choice.token_ids for choice in best] == [choice.token_ids for choice in ranked[:2]]
    assert client.generate("chat", PROMPT, best_of=4, **HOT).token_ids == ranked[0].token_ids


def test_logprobs_are_those_of_transformers(client: Client, reference) -> None:
    """Prompt, chosen and top log-probabilities are log-softmax of the model's logits, hot as the sampling may be."""
    ids = client.generate("chat", PROMPT, max_tokens=1, prompt_logprobs=0).prompt_logprobs
    prompt = [each.token_id for each in ids]
    answer = client.generate("chat", prompt, logprobs=5, prompt_logprobs=3, top_k=50, repetition_penalty=1.3, **HOT)
    expected = log_softmax(reference, [*prompt, *answer.token_ids])
    told = [*answer.prompt_logprobs, *answer.logprobs]
    assert [each.token_id for each in told] == [*prompt, *answer.token_ids]
    assert (told[0].logprob, told[0].top) == (None, ())
    for position, each in enumerate(told[1:]):
        assert each.logprob == pytest.approx(expected[position, each.token_id], abs=2e-3)
        likeliest = np.sort(expected[position])[::-1][: len(each.top)]
        np.testing.assert_allclose([top.logprob for top in each.top], likeliest, atol=2e-3)
        assert all(top.logprob == pytest.approx(expected[position, top.token_id], abs=2e-3) for top in each.top)
    assert {len(each.top) for each in answer.prompt_logprobs[1:]} == {3}
    assert {len(each.top) for each in answer.logprobs} == {5}


def test_greedy_logprobs_leave_the_answer_as_it_is(client: Client) -> None:
    """Asking for log-probabilities changes no token; the chosen one is the likeliest."""
    plain = client.chat("chat", MESSAGES, max_tokens=32)
    told = client.chat("chat", MESSAGES, max_tokens=32, logprobs=1, prompt_logprobs=0)
    assert told.token_ids == plain.token_ids
    assert len(told.prompt_logprobs) == told.num_input_tokens
    assert all(each.top[0].token_id == each.token_id for each in told.logprobs)


def test_logit_bias_forces_and_forbids(client: Client) -> None:
    """A bias of 100 makes a token the only one, one of -100 keeps it away."""
    forced = client.generate("chat", PROMPT, max_tokens=5, logit_bias={77: 100}, ignore_eos=True)
    assert forced.token_ids == (77,) * 5
    plain = client.chat("chat", MESSAGES, max_tokens=8, ignore_eos=True)
    without = client.chat("chat", MESSAGES, max_tokens=8, ignore_eos=True, logit_bias={plain.token_ids[0]: -100})
    assert plain.token_ids[0] not in without.token_ids


@pytest.mark.parametrize(("bad", "left"), [("lemon", "river"), ("river", "lemon")])
def test_bad_words_do_not_appear(client: Client, bad: str, left: str) -> None:
    """A word of the answer, at its beginning or within, is gone when it is forbidden; without that it is there."""
    messages = [{"role": "user", "content": "Copy: lemon river"}]
    plain = client.chat("chat", messages, max_tokens=8).text
    assert bad in plain
    assert left in plain
    assert bad not in client.chat("chat", messages, max_tokens=8, bad_words=[bad]).text


def test_least_length_holds_every_end_back(client: Client) -> None:
    """Before min_tokens neither the model's end, nor a stop token, nor a stop string ends the answer."""
    plain = client.chat("chat", MESSAGES, max_tokens=64)
    assert plain.finish_reason == "stop"
    least = plain.num_output_tokens + 7
    longer = client.chat("chat", MESSAGES, max_tokens=64, min_tokens=least)
    assert longer.num_output_tokens >= least
    token = plain.token_ids[0]
    early = client.chat("chat", MESSAGES, max_tokens=64, stop_token_ids=[token])
    assert (early.token_ids, early.finish_reason) == ((token,), "stop")
    late = client.chat("chat", MESSAGES, max_tokens=64, stop_token_ids=[token], min_tokens=3)
    assert late.num_output_tokens >= 3


def test_stop_strings_are_included_where_asked(client: Client) -> None:
    """include_stop_str_in_output shows the stop string at the answer's end, and nothing behind it."""
    text = client.chat("chat", MESSAGES, max_tokens=32).text
    stop = text[1:3]
    assert client.chat("chat", MESSAGES, max_tokens=32, stop=[stop]).text == text[: text.index(stop)]
    included = client.chat("chat", MESSAGES, max_tokens=32, stop=[stop], include_stop_str_in_output=True)
    assert included.text == text[: text.index(stop)] + stop


def test_penalties_spread_the_tokens(client: Client) -> None:
    """Penalties of the highest value let the commonest token of an answer come less often than without."""
    options = {"max_tokens": 100, "ignore_eos": True}

    def commonest(**penalty: float) -> int:
        return Counter(client.generate("chat", PROMPT, **penalty, **options).token_ids).most_common(1)[0][1]

    plain = commonest()
    assert commonest(repetition_penalty=1.8) < plain
    assert commonest(frequency_penalty=2.0) < plain
    assert commonest(presence_penalty=2.0) <= plain
    assert commonest(presence_penalty=-2.0) >= plain


def test_echo_stands_before_each_answer(client: Client) -> None:
    """With echo each answer begins with the prompt, whole and streamed."""
    plain = client.generate("chat", PROMPT, n=2, **HOT).choices
    echoed = client.generate("chat", PROMPT, n=2, echo=True, **HOT).choices
    assert [choice.text for choice in echoed] == [PROMPT + choice.text for choice in plain]
    with client.stream("chat", PROMPT, n=2, echo=True, **HOT) as stream:
        assert [choice.text for choice in stream.result().choices] == [choice.text for choice in echoed]


def test_the_ensemble_hands_all_of_it_on(client: Client) -> None:
    """Several answers, their log-probabilities and a structure come through chat_ensemble as from the engine."""
    options = {**HOT, "n": 2, "logprobs": 2, "prompt_logprobs": 1, "min_p": 0.001, "echo": True, "priority": 2}
    direct = client.generate("chat", PROMPT, request_id="same", **options)
    through = client.generate("chat_ensemble", PROMPT, request_id="same", **options)
    assert through.choices == direct.choices
    assert through.prompt_logprobs == direct.prompt_logprobs
    assert client.chat("chat_ensemble", MESSAGES, choice=["a", "b"]).text in ("a", "b")


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_answers_have_the_structure_that_was_asked_for(client: Client, temperature: float) -> None:
    """Schema, object, pattern, choice and grammar hold whatever the model would rather say."""
    options = {"temperature": temperature, "seed": 3, "max_tokens": 120}
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}, "ok": {"type": "boolean"}},
        "required": ["sum", "ok"],
        "additionalProperties": False,
    }
    answer = client.chat("chat", MESSAGES, json_schema=schema, **options)
    jsonschema.validate(json.loads(answer.text), schema)
    assert answer.finish_reason == "stop"
    assert re.fullmatch(r"[A-C]{2}-\d{3}", client.chat("chat", MESSAGES, regex=r"[A-C]{2}-\d{3}", **options).text)
    assert client.chat("chat", MESSAGES, choice=["forty-two", "forty"], **options).text in ("forty-two", "forty")
    several = client.chat("chat", MESSAGES, choice=["a", "b"], n=3, temperature=2.0, seed=1).choices
    assert {choice.text for choice in several} <= {"a", "b"}


def test_tensorrt_llms_names_work(server: FathomServe) -> None:
    """TensorRT-LLM's tensors ask for several answers and their log-probabilities, of which ids and sums agree."""
    outputs = raw_answer(
        server,
        text_input=np.array([PROMPT.encode()], np.object_),
        max_tokens=np.array([12], np.int32),
        min_tokens=np.array([2], np.int32),
        temperature=np.array([1.0], np.float32),
        min_p=np.array([0.01], np.float32),
        presence_penalty=np.array([0.1], np.float32),
        frequency_penalty=np.array([0.1], np.float32),
        bad_words=np.array([b"zebra"], np.object_),
        end_id=np.array([-1], np.int32),
        pad_id=np.array([0], np.int32),
        beam_width=np.array([1], np.int32),
        num_return_sequences=np.array([3], np.int32),
        priority=np.array([1], np.int32),
        seed=np.array([4], np.uint64),
        return_log_probs=np.array([True]),
        return_output_ids=np.array([True]),
        return_num_output_tokens=np.array([True]),
        return_finish_reason=np.array([True]),
    )
    assert outputs["text_output"].shape == (3,)
    assert outputs["finish_reason"].tolist() == [b"length"] * 3
    assert outputs["num_output_tokens"].tolist() == [12] * 3
    assert outputs["sequence_index"].tolist() == [0, 1, 2]
    assert outputs["output_ids"].shape == (36,)
    sums = outputs["output_log_probs"].reshape(3, 12).sum(axis=1)
    np.testing.assert_allclose(outputs["cum_log_probs"], sums, rtol=1e-4)


def test_vllms_flags_and_json_work_over_http(server: FathomServe) -> None:
    """Triton's generate endpoint takes vLLM's JSON, and gives several answers as lists."""
    parameters = {"n": 2, "temperature": 1.0, "seed": 3, "max_tokens": 6, "ignore_eos": True, "logprobs": 1}
    status, answer = http_answer(
        server, text_input=PROMPT, sampling_parameters=json.dumps(parameters), return_cumulative_logprob=True
    )
    assert status == 200, answer
    assert len(answer["text_output"]) == len(answer["cumulative_logprob"]) == 2
    for listed, total in zip(answer["logprobs"], answer["cumulative_logprob"], strict=True):
        tokens = json.loads(listed)
        assert len(tokens) == 6
        assert sum(token["logprob"] for token in tokens) == pytest.approx(total, rel=1e-4)


def test_misspelt_parameters_are_refused_over_http(server: FathomServe) -> None:
    """A name that is no input is told back with the inputs that there are."""
    status, answer = http_answer(server, text_input=PROMPT, temprature=0.5)
    assert status == 400
    assert "'temprature' is no input or parameter of this model; inputs: text_input" in answer["error"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 2}, "n is 2 and temperature 0"),
        ({"n": 3, "best_of": 2, "temperature": 1.0}, "best_of is 2 and n 3; best_of must be at least n"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens is 9 and max_tokens 8"),
        ({"logit_bias": {99_999: 1.0}}, "logit_bias holds the token id 99999; the vocabulary has the ids 0 to 1535"),
        ({"stop_token_ids": [1536]}, "stop_token_ids holds the token id 1536"),
        ({"stop": ["x"] * 17}, "17 stop strings; at most 16"),
        ({"choice": ["a"], "ignore_eos": True}, "ignore_eos contradicts structured_outputs"),
    ],
)
def test_what_contradicts_itself_is_refused(client: Client, options: dict, told: str) -> None:
    """Contradictions and strange ids are refused with names, values and the remedy; the next request is served."""
    with pytest.raises(InvalidRequestError, match=told):
        client.generate("chat", PROMPT, **options)
    assert client.generate("chat", PROMPT, max_tokens=2, ignore_eos=True).num_output_tokens == 2


def test_best_of_cannot_stream(client: Client) -> None:
    """The best are known at the end, so a stream of them is refused."""
    with pytest.raises(InvalidRequestError, match="best_of is 3 and n 1 in a streamed answer"):
        client.stream("chat", PROMPT, best_of=3, temperature=1.0).result()
