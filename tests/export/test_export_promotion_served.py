"""Two versions of one model on a real Triton, and what config.pbtxt takes from the spec."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from tests.serving import FathomServe
from transformers import LlamaConfig, LlamaForCausalLM

from fathom_export.export_model import export_model
from fathom_export.repository.promotion import promote, rollback
from fathom_export.spec import EmbedSpec, EncoderServing, GenerateSpec, Serving
from fathom_server.launcher.repository_check import ServerFeatures, wanted_features

Serve = Callable[..., FathomServe]


class Quiet:
    """A reporter that shows nothing."""

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter``."""

    def advance(self, done: int, total: int) -> None:
        """See ``Reporter``."""


def ids_of(server: FathomServe, model: str) -> list[int]:
    """The ids that a model answers the same prompt with."""
    import queue

    answers: queue.Queue[Any] = queue.Queue()
    prompt = triton.InferInput("input_ids", [3], "INT32")
    prompt.set_data_from_numpy(np.array([5, 6, 7], np.int32))
    tokens = triton.InferInput("max_tokens", [1], "INT32")
    tokens.set_data_from_numpy(np.array([8], np.int32))
    ids = triton.InferInput("return_output_ids", [1], "BOOL")
    ids.set_data_from_numpy(np.array([True]))
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer(model, [prompt, tokens, ids])
        answer = answers.get(timeout=60)
    assert not isinstance(answer, Exception), answer
    found: list[int] = answer.as_numpy("output_ids").tolist()
    return found


def served_versions(server: FathomServe, model: str) -> list[str]:
    """Versions of a model that Triton is ready to serve."""
    status, body = server.get(f"/v2/models/{model}")
    assert status == 200, body
    versions: list[str] = json.loads(body)["versions"]
    return versions


def test_promotion_and_rollback_change_what_is_answered(tiny_llm: Path, tmp_path: Path, serve: Serve) -> None:
    """Each version answers with its own weights, directly and through the ensemble, and no other one is loaded."""
    repository, source = tmp_path / "repository", tmp_path / "source"
    shutil.copytree(tiny_llm, source)
    spec = GenerateSpec("chat", str(source), limits={"max_context": 32, "max_batch": 3}, serving=Serving())
    export_model(spec, Path(), repository, Quiet())
    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig.from_pretrained(source)).save_pretrained(source)
    export_model(spec, Path(), repository, Quiet())

    answers = {}
    for expected in (2, 1, 2):
        server = serve(repository)
        for model in ("chat", "chat_tokenizer", "chat_ensemble"):
            assert served_versions(server, model) == [str(expected)]
        direct = ids_of(server, "chat")
        assert ids_of(server, "chat_ensemble") == direct
        assert answers.setdefault(expected, direct) == direct
        server.stop()
        if expected == 2:
            rollback(repository, "chat")
        else:
            promote(repository, "chat", 2)
    assert answers[1] != answers[2]


def test_the_engine_is_warmed_up_in_every_shape(tiny_llm: Path, tmp_path: Path, serve: Serve) -> None:
    """A short prompt, a whole prefill chunk and a prompt of two run before the first request."""
    spec = GenerateSpec("chat", str(tiny_llm), limits={"max_context": 64, "max_batch": 3, "prefill_chunk": 16})
    export_model(spec, Path(), tmp_path / "repository", Quiet())
    server = serve(tmp_path / "repository")
    statistics = server.statistics("chat")
    assert statistics["execution_count"] == 3
    assert "failed to" not in server.stderr()


def test_a_repeated_text_is_answered_from_the_cache(tiny_bert: Path, tmp_path: Path, serve: Serve) -> None:
    """With ``response_cache`` the second request for a text does not reach the encoder, and gets the same."""
    serving = EncoderServing(
        response_cache=True, preferred_batch_sizes=(2,), queue_timeout_ms=5000, rate_limit_resources={"cores": 1}
    )
    spec = EmbedSpec("embed", str(tiny_bert), limits={"max_batch": 4}, serving=serving)
    repository = tmp_path / "repository"
    export_model(spec, Path(), repository, Quiet())
    names = ("embed", "embed_tokenizer", "embed_encoder")
    assert wanted_features(repository, names) == ServerFeatures(response_cache=True, rate_limiter=True)
    server = serve(repository, "--cache-mb", "8")
    text = triton.InferInput("text_input", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([["the cat sat"]], dtype=np.object_))
    warmed = server.statistics("embed_encoder")["execution_count"]
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        answers = [client.infer("embed", [text], client_timeout=30).as_numpy("sentence_embedding") for _ in range(3)]
    assert server.statistics("embed_encoder")["execution_count"] == warmed + 1
    assert server.statistics("embed")["inference_stats"]["cache_hit"]["count"] == 2
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


@pytest.mark.parametrize("text", ["# response_cache { enable: true }", "response_cache { enable: false }", ""])
def test_features_that_nobody_asks_for_are_off(tmp_path: Path, text: str) -> None:
    """A comment, or a plain no, does not start a cache."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(text)
    assert wanted_features(tmp_path, ["m"]) == ServerFeatures(response_cache=False, rate_limiter=False)
