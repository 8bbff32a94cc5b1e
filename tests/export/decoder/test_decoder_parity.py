"""Decoder graphs in float32 against transformers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.export.decoder.checkpoints import KINDS, reference_greedy, reference_logits, supported_context
from tests.export.decoder.decoder_runner import DecoderRunner

from fathom_export.decoder import DecoderDialect, build_decoder

DIALECTS: tuple[DecoderDialect, ...] = ("cpu", "portable")
RAGGED_KINDS = ["llama-untied", "mistral-windowed", "qwen2", "qwen3-tied", "phi3", "smollm3-windowed", "olmo2", "olmo3"]
RAGGED_KINDS += ["granite", "gemma2", "gemma3-text"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_128_greedy_tokens_equal_those_of_transformers(kind, dialect, graph, checkpoint, prompts):
    """A prompt in chunks, all but the last without logits, and 128 tokens on a cache bound in place."""
    folder, description = graph(kind, dialect, "fp32")
    expected = reference_greedy(checkpoint(kind), prompts[2], 128)

    assert DecoderRunner(folder, description).generate(prompts[2], 128) == expected
    assert len(expected) == 128
    assert len(set(expected)) > 16, "the reference repeats itself, so that equality says little"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_every_position_are_those_of_transformers(kind, dialect, graph, checkpoint, prompts):
    """Logits asked for at all positions, in one prefill up to the whole context."""
    folder, description = graph(kind, dialect, "fp32")
    tokens = (prompts[5] * 6)[: supported_context(kind)]

    logits = DecoderRunner(folder, description).step([tokens], [range(len(tokens))])[0]

    np.testing.assert_allclose(logits, reference_logits(checkpoint(kind), tokens), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_logits_come_in_the_order_of_their_positions(dialect, graph, checkpoint, prompts):
    """Any positions in any order, with repeats, each batch entry its own."""
    folder, description = graph("qwen3-tied", dialect, "fp32")
    tokens = [prompts[2][:9], prompts[5][:9]]
    positions = [[8, 0, 3], [2, 2, 7]]

    logits = DecoderRunner(folder, description, rows=2).step(tokens, positions)

    for row in range(2):
        expected = reference_logits(checkpoint("qwen3-tied"), tokens[row])[positions[row]]
        np.testing.assert_allclose(logits[row], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_logit_position_gives_no_logits(dialect, graph, prompts):
    """K = 0 answers an empty tensor with all its dimensions."""
    folder, description = graph("llama-tied", dialect, "fp32")

    logits = DecoderRunner(folder, description, rows=2).step([prompts[2], prompts[2]], [[], []])

    assert logits.shape == (2, 0, description.vocabulary)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", RAGGED_KINDS)
def test_rows_of_a_ragged_batch_answer_as_they_do_alone(kind, dialect, graph, checkpoint, prompts):
    """Six rows of different lengths step together, one token each, as transformers does one by one."""
    folder, description = graph(kind, dialect, "fp32")
    runner = DecoderRunner(folder, description, rows=len(prompts))
    answers = [[int(runner.prefill(tokens, 16, row).argmax())] for row, tokens in enumerate(prompts)]
    for _ in range(31):
        logits = runner.step([answer[-1:] for answer in answers], [[0]] * len(prompts))
        for answer, token in zip(answers, logits[:, 0].argmax(axis=-1), strict=True):
            answer.append(int(token))

    assert answers == [reference_greedy(checkpoint(kind), tokens, 32) for tokens in prompts]


@pytest.mark.parametrize("kind", ["qwen3-tied", "mistral-windowed", "gemma2"])
def test_portable_rows_with_pasts_may_bring_several_tokens(kind, graph, checkpoint, prompts):
    """Rows of different pasts bring five tokens each in one step."""
    folder, description = graph(kind, "portable", "fp32")
    runner = DecoderRunner(folder, description, rows=len(prompts))
    for row, tokens in enumerate(prompts):
        runner.prefill(tokens, 16, row)
    new = [tokens[::-1] * 5 for tokens in prompts]

    logits = runner.step([tokens[:5] for tokens in new], [range(5)] * len(prompts))

    for row, tokens in enumerate(prompts):
        expected = reference_logits(checkpoint(kind), tokens + new[row][:5])[-5:]
        np.testing.assert_allclose(logits[row], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("disabled", ["0", "1"])
@pytest.mark.parametrize("kind", ["qwen3-tied", "mistral-windowed", "phi3-partial", "gemma2"])
def test_either_attention_kernel_of_onnx_runtime_is_right(kind, disabled, graph, checkpoint, prompts, monkeypatch):
    """Flash attention may be switched off for speed; the answer is the same with it and without."""
    monkeypatch.setenv("ORT_GQA_DISABLE_FLASH_ATTENTION", disabled)
    folder, description = graph(kind, "cpu", "fp32")

    answer = DecoderRunner(folder, description).generate(prompts[5], 128)

    assert answer == reference_greedy(checkpoint(kind), prompts[5], 128)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_shorter_context_gives_the_same_answer(dialect, checkpoint, prompts, tmp_path: Path):
    """A graph that holds 64 tokens answers like one that holds them all, to its last place."""
    source = checkpoint("llama-untied")
    description = build_decoder(source, tmp_path, dialect=dialect, precision="fp32", max_context=64)

    assert description.max_context == 64
    answer = DecoderRunner(tmp_path, description).generate(prompts[5], 17)
    assert answer == reference_greedy(source, prompts[5], 17)


def test_a_head_that_differs_from_a_tied_embedding_is_taken(checkpoint: Callable[[str], Path], prompts, tmp_path: Path):
    """Where config.json ties the LM head but another is stored, that one counts, as it does in transformers."""
    source = shutil.copytree(checkpoint("llama-untied"), tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))

    description = build_decoder(source, tmp_path, dialect="cpu", precision="fp32")

    expected = reference_greedy(source, prompts[2], 32)
    assert DecoderRunner(tmp_path, description).generate(prompts[2], 32) == expected
    assert expected == reference_greedy(checkpoint("llama-untied"), prompts[2], 32)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_decoder_of_a_model_of_pictures_is_found_under_either_name(prefix, checkpoint, prompts, tmp_path: Path):
    """Version 4.52 of transformers renamed the parts of such models."""
    source = Path(shutil.copytree(checkpoint("gemma3"), tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    renamed = {name.replace("language_model.model.", prefix): values for name, values in tensors.items()}
    save_file(renamed, source / "model.safetensors")

    description = build_decoder(source, tmp_path, dialect="cpu", precision="fp32")

    expected = reference_greedy(checkpoint("gemma3"), prompts[2], 32)
    assert DecoderRunner(tmp_path, description).generate(prompts[2], 32) == expected
    assert any(name.startswith(prefix) for name in renamed)
