"""The native runner: what a sequence computes depends on nothing but its tokens."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fathom_server.engine.runner.base import Runner, StepRow
from fathom_server.engine.runner.load import load_runner, served_graph
from fathom_server.engine.runner.native import NativeRunner
from fathom_server.engine.runner.slots import SlotRunnerAdapter
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import SettingsError
from fathom_server.native.library import SWITCH, library_path

needs_operators = pytest.mark.skipif(library_path() is None, reason="Fathom's operators are not built here")
FORMS = ["cpu int8", "cpu int4"]
SEQUENCES = 16


def load(folder: Path, **limits: object) -> NativeRunner:
    """The native runner of a folder with these limits."""
    settings = EngineSettings.load(folder)
    return NativeRunner(folder, replace(settings, limits=replace(settings.limits, **limits)))  # type: ignore[arg-type]


def texts(count: int = SEQUENCES) -> list[list[int]]:
    """Random texts of 40 to 200 tokens."""
    random = np.random.default_rng(3)
    return [[int(token) for token in random.integers(0, 300, random.integers(40, 200))] for _ in range(count)]


def alone(folder: Path, text: list[int]) -> npt.NDArray[np.float32]:
    """Logits of all positions of a text that is computed at once and by itself."""
    runner = load(folder)
    blocks = range(-(-len(text) // runner.geometry.block_tokens))
    return runner.step([StepRow(blocks, 0, text, len(text))]).copy()


@needs_operators
@pytest.mark.parametrize("form", FORMS)
def test_sixteen_sequences_get_the_bits_of_each_alone(graphs: dict[str, Path], form: str) -> None:
    """Chunks, single tokens and drafts of sixteen sequences in one step, blocks scattered: the bits of each alone."""
    runner = load(graphs[form])
    random = np.random.default_rng(7)
    whole = texts()
    expected = [alone(graphs[form], text) for text in whole]
    free = [int(block) for block in random.permutation(runner.geometry.blocks)]
    blocks: list[list[int]] = [[] for _ in whole]
    past = [0] * len(whole)
    compared = 0
    while any(done < len(text) for done, text in zip(past, whole, strict=True)):
        rows, places = [], []
        for place in random.permutation(len(whole)):
            text, done = whole[place], past[place]
            count = min(int(random.choice([1, 1, 1, 4, 33])), len(text) - done)
            if not count or random.random() < 0.2:
                continue
            while len(blocks[place]) * runner.geometry.block_tokens < done + count:
                blocks[place].append(free.pop())
            wanted = int(random.integers(0, count + 1))
            rows.append(StepRow(blocks[place], done, text[done : done + count], wanted))
            places.append(int(place))
        if not rows:
            continue
        found = runner.step(rows)
        begin = 0
        for row, place in zip(rows, places, strict=True):
            past[place] += len(row.token_ids)
            end = past[place]
            np.testing.assert_array_equal(found[begin : begin + row.logits], expected[place][end - row.logits : end])
            begin += row.logits
            compared += row.logits
    assert compared > 500


@needs_operators
@pytest.mark.parametrize("form", FORMS)
def test_a_shared_beginning_is_computed_once(graphs: dict[str, Path], form: str) -> None:
    """A sequence that reads another's full blocks goes on with the bits of one that computed all by itself."""
    runner = load(graphs[form])
    size = runner.geometry.block_tokens
    shared = texts(1)[0][: 1 * size]
    first, second = [*shared, 5, 6, 7], [*shared, 9, 8, 7, 6]
    runner.step([StepRow([3, 4], 0, first, 1)])
    found = runner.step([StepRow([3, 7], size, second[size:], 4)])
    np.testing.assert_array_equal(found, alone(graphs[form], second)[size:])


@needs_operators
def test_blocks_that_were_used_before_hold_nothing(graphs: dict[str, Path]) -> None:
    """A sequence in another's freed blocks reads its own tokens only."""
    runner = load(graphs["cpu int8"])
    one, other = texts(2)
    blocks = list(range(20))
    runner.step([StepRow(blocks, 0, one, 1)])
    np.testing.assert_array_equal(
        runner.step([StepRow(blocks[::-1], 0, other, len(other))]), alone(graphs["cpu int8"], other)
    )


@needs_operators
def test_the_cache_is_the_budget_of_tokens(graphs: dict[str, Path]) -> None:
    """By default every sequence of a full batch fits; a budget in tokens is rounded up to blocks."""
    assert load(graphs["cpu int8"], max_batch=3, max_context=100).geometry.blocks == 3 * 4
    runner = load(graphs["cpu int8"], max_context=100, kv_cache_tokens=1000)
    assert (runner.geometry.blocks, runner.geometry.block_tokens, runner.geometry.shareable) == (32, 32, True)
    graph = EngineSettings.load(graphs["cpu int8"]).graph
    values = 2 * graph.layers * graph.kv_heads * graph.head_dim
    assert runner.cache.bytes_per_token() == values + values // graph.head_dim * 4


@needs_operators
def test_steps_larger_than_any_before_are_taken(graphs: dict[str, Path]) -> None:
    """More rows, tokens, blocks and logits than the limits foresee make the buffers grow, and nothing else."""
    runner = load(graphs["cpu int8"], max_batch=1, prefill_chunk=8, kv_cache_tokens=8192)
    whole = texts(5)
    expected = [alone(graphs["cpu int8"], text) for text in whole]
    rows = [StepRow(range(8 * place, 8 * place + 7), 0, text, len(text)) for place, text in enumerate(whole)]
    np.testing.assert_array_equal(runner.step(rows), np.concatenate(expected))
    wide = StepRow([*range(40, 47), *[0] * 60], 0, whole[0], 1)
    np.testing.assert_array_equal(runner.step([wide]), expected[0][-1:])
    np.testing.assert_array_equal(runner.step(rows[:1]), expected[0])


@needs_operators
def test_a_kept_shape_reads_new_values(graphs: dict[str, Path]) -> None:
    """Hundreds of steps of a hundred shapes, more than are kept bound, go on giving the bits of the text at once."""
    text = [int(token) for token in np.random.default_rng(1).integers(0, 300, 400)]
    expected = alone(graphs["cpu int8"], text)
    runner = load(graphs["cpu int8"])
    for repeat in range(2):
        past = 0
        for size in [*range(1, 27), 1, 1, 1, 1]:
            blocks = range(13 * repeat, 13 * repeat + 13)
            for logits in {1, size // 2}:
                found = runner.step([StepRow(blocks, past, text[past : past + size], logits)])
                np.testing.assert_array_equal(found, expected[past + size - logits : past + size])
            past += size


@needs_operators
def test_the_folder_and_the_machine_decide(graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The native graph is served where there is one and its operators are not turned off, else the stock one."""

    def kind(form: str) -> type[Runner]:
        return type(load_runner(graphs[form], EngineSettings.load(graphs[form])))

    assert kind("cpu int8") is NativeRunner
    assert kind("cpu fp32") is SlotRunnerAdapter
    assert served_graph(graphs["cpu fp32"]) == "model.onnx"
    assert served_graph(graphs["cpu int4"]) == "model.native.onnx"
    monkeypatch.setenv(SWITCH, "0")
    assert kind("cpu int8") is SlotRunnerAdapter
    assert served_graph(graphs["cpu int4"]) == "model.onnx"
    with pytest.raises(SettingsError, match=r"model\.native\.onnx needs Fathom's operators"):
        load(graphs["cpu int8"])


@needs_operators
def test_what_cannot_be_loaded_is_named(graphs: dict[str, Path], tmp_path: Path) -> None:
    """Another cache type than the graph was written for, a broken and a missing graph: one sentence with the file."""
    with pytest.raises(
        SettingsError, match=r"kv_cache_dtype is float16, but .*model\.native\.onnx was written .* int8"
    ):
        load(graphs["cpu int8"], kv_cache_dtype="float16")
    folder = tmp_path / "broken"
    shutil.copytree(graphs["cpu int8"], folder)
    (folder / "model.native.onnx").write_bytes(b"nonsense")
    with pytest.raises(SettingsError, match=r"broken/model\.native\.onnx cannot be loaded by ONNX Runtime"):
        load(folder)
    raw = json.loads((folder / "engine.json").read_text())
    raw["limits"]["kv_cache_dtype"] = "int3"
    (folder / "engine.json").write_text(json.dumps(raw))
    with pytest.raises(SettingsError, match=r"kv_cache_dtype is 'int3'; valid: int8, float16, float32"):
        EngineSettings.load(folder)


def test_a_budget_below_one_sequence_is_refused(graphs: dict[str, Path]) -> None:
    """The cache must hold one sequence of the longest context."""
    settings = EngineSettings.load(graphs["cpu int8"])
    with pytest.raises(SettingsError, match=r"kv_cache_tokens is 100, but one sequence may take max_context = 512"):
        replace(settings.limits, kv_cache_tokens=100)
