"""The GPU benchmark's arithmetic and report, and that it says in a sentence where it cannot run."""

import json
import subprocess
from pathlib import Path

import onnxruntime as ort
import pytest
from benchmarks.gpu.__main__ import SHAPES, main, matching
from benchmarks.gpu.report import Report, Speed
from benchmarks.gpu.roofline import (
    Chip,
    cache_bytes,
    decode_floor_s,
    layer_weights,
    prefill_floor_s,
    weight_bytes,
)

RUN = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.sh"
CHIP = Chip(bytes_per_s=1e12, operations_per_s=1e14)


def test_weights_are_those_of_the_models_name() -> None:
    """360 million and 1.5 billion weights with the tied embedding, and eight billion."""
    totals = {name: layer_weights(shape) + shape.hidden * shape.vocabulary for name, shape in SHAPES.items()}
    assert totals["360m"] == 361_758_720
    assert totals["1.5b"] == pytest.approx(1.56e9, rel=0.01)
    assert totals["8b"] == pytest.approx(8.05e9, rel=0.01)


def test_a_decode_step_reads_weights_once_and_each_cache_once() -> None:
    """By hand: bytes over bandwidth; sixteen sequences add their caches only, fp8 nearly halves the layers."""
    shape = SHAPES["360m"]
    assert cache_bytes(shape, 1) == 2 * 32 * 5 * 64 * 2
    assert weight_bytes(shape, "fp16") == 2 * 361_758_720
    one, many = (decode_floor_s(shape, "fp16", batch, 512, CHIP) for batch in (1, 16))
    assert one == pytest.approx((723_517_440 + 512 * 40_960) / 1e12)
    assert many - one == pytest.approx(15 * 512 * 40_960 / 1e12)
    assert weight_bytes(shape, "fp8") == layer_weights(shape) * (1 + 1 / 32) + 49152 * 960 * 2


def test_a_long_prefill_is_bound_by_arithmetic() -> None:
    """Two operations a weight and token, one head a prompt, and attention over half of the prompt on average."""
    shape = SHAPES["1.5b"]
    tokens = 2000
    operations = 2 * tokens * layer_weights(shape) + 2 * shape.hidden * shape.vocabulary
    operations += 4 * tokens * (tokens + 1) / 2 * shape.layers * shape.heads * shape.head_dim
    assert prefill_floor_s(shape, "fp16", 1, tokens, CHIP) == pytest.approx(operations / 1e14)
    assert prefill_floor_s(shape, "fp16", 1, 1, CHIP) == pytest.approx(
        (weight_bytes(shape, "fp16") + cache_bytes(shape, 1)) / 1e12
    )


def test_the_report_keeps_every_run_and_names_what_is_missing(tmp_path: Path) -> None:
    """Ratios are of medians; a shape without figures and a part that failed say so."""
    whole = Speed("360m", "fp16", "decode", 1, 512, [0.002, 0.001, 0.009], [0.004, 0.006, 0.005], 0.001)
    empty = Speed("360m", "fp8", "decode", 1, 512, [], [], 0.001)
    report = Report(
        "2026-11-21T10:00:00Z", "abc", "a GPU", {}, {"bytes_per_s": 1e12}, speed=(whole, empty), faults=("x",)
    )
    path = report.save(tmp_path)
    saved = json.loads(path.read_text())
    assert path.name == "gpu-2026-11-21.json"
    assert saved["speed"][0]["ratio"] == 2.5
    assert saved["speed"][0]["of_roofline"] == 0.5
    assert saved["speed"][0]["ours_s"] == [0.002, 0.001, 0.009]
    assert saved["speed"][1]["ratio"] is None
    lines = report.lines()
    assert lines[1].endswith("2.00 ms, 2.50 times transformers, 50% of the roofline")
    assert lines[2].endswith("not measured")
    assert lines[3] == "not measured: x"


def test_answers_are_compared_up_to_their_first_difference() -> None:
    """The number of tokens that two share from the beginning."""
    assert matching([1, 2, 3], [1, 2, 3]) == 3
    assert matching([1, 2, 3], [1, 5, 3]) == 1


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is here")
def test_without_cuda_it_ends_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, the remedy on standard error, nothing written."""
    assert main(["--work", str(tmp_path), "--results", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "pip install 'fathom-server[gpu]'" in captured.err
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_the_script_wants_a_folder_of_wheels(tmp_path: Path) -> None:
    """Without one it says how it is used, before it makes anything."""
    for arguments in ([], [str(tmp_path / "nowhere")]):
        found = subprocess.run([str(RUN), *arguments], capture_output=True, text=True, check=False)
        assert found.returncode == 2
        assert "WHEELS" in found.stderr
