"""``fathom-fit``: questions in, answers out in every form."""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from fathom_export.fit.calibration import Calibration
from fathom_export.fit.cli import main
from fathom_export.spec import read_bundle
from fathom_export.spec.model_spec import VllmSpec
from fathom_server.sizing.roofline import AttentionRates, Curve, Processor, ProductRates

ROOT = Path(__file__).resolve().parents[2]
LARGE = str(ROOT / "examples" / "models" / "large")
CHART = ROOT / "helm" / "fathom"


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    """A machine that takes 0.1 ns a weight up to eight rows."""
    curve = Curve((1.0, 8.0, 128.0), (1e-10, 1e-10, 1.6e-9))
    rates = ProductRates((4e6, 1e8), (curve, curve))
    attention = AttentionRates(1e-10, 1e-12, 1e-11)
    processor = Processor(
        "a processor",
        2e10,
        dict.fromkeys(("fp32", "int8", "int4"), rates),
        dict.fromkeys(("float32", "int8"), attention),
        dict.fromkeys(("stock", "native"), 1e-5),
        1e-4,
        1e-5,
    )
    path = tmp_path / "calibration.json"
    Calibration("a processor", 2, "2026-11-21T20:00:00+00:00", processor).save(path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    status, out, err = run(capsys, *arguments, "--output", "json")
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_memory_of_every_precision_is_broken_down(capsys: pytest.CaptureFixture[str]) -> None:
    """Parts sum to the total, the cache of a token is the layers' keys and values, and more bits take more."""
    found = answer(capsys, LARGE, "--requests", "4", "--no-gpu", "--memory-gib", "8")
    memory = {form["form"]["precision"]: form for form in found["memory"]}
    assert list(memory) == ["fp32", "int8", "int4"]
    for form in memory.values():
        parts = dict(form["memory"])
        assert parts.pop("total") == sum(parts.values()) <= form["limit_bytes"] == 8 << 30
    assert memory["fp32"]["cache_bytes_per_token"] == 2 * 6 * 4 * 32 * 4
    assert memory["int8"]["cache_bytes_per_token"] == 6 * 4 * (2 * 32 + 8)
    assert (
        memory["fp32"]["memory"]["weights"] > memory["int8"]["memory"]["weights"] > memory["int4"]["memory"]["weights"]
    )
    assert found["parameters"] == 5_115_520


def test_a_bundle_s_model_is_sized_as_it_is_exported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Precision, block size and the cache's type come from the spec, and a relative source from the bundle's folder."""
    bundle = tmp_path / "bundle.toml"
    bundle.write_text(
        f'[[models]]\nname = "small"\nsource = "{LARGE}"\ntask = "generate"\nprecision = "int4"\n'
        'limits = { kv_cache_dtype = "float16" }\nquantisation = { block_size = 32 }\n',
        encoding="utf-8",
    )
    (form,) = answer(capsys, str(bundle), "--no-gpu")["memory"]
    assert form["form"] == {
        "precision": "int4", "runner": "native", "block_size": 32, "zero_points": False, "kv_dtype": "float16"
    }  # fmt: skip


def test_a_rate_and_slos_give_a_gpu_a_precision_and_replicas(capsys: pytest.CaptureFixture[str]) -> None:
    """The chosen candidate meets every SLO, and its replicas complete the rate with room to spare."""
    asked = ("--rate", "400", "--slo", "ttft_ms=50,itl_ms=5", "--no-cpu", "--input-tokens", "1024")
    found = answer(capsys, LARGE, *asked)
    chosen = found["candidates"][found["ranked"][0]]
    service = chosen["service"]
    assert chosen["missed"] == {}
    assert service["ttft_s"] <= 0.05
    assert service["itl_s"] <= 0.005
    assert service["requests_per_s"] * chosen["replicas"] * 0.8 >= 400
    assert chosen["memory"]["total"] <= chosen["memory_limit_bytes"]


def test_prices_choose_the_cheapest_and_give_the_cost_of_a_million_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """Only with prices is there a cost: that of all machines over the tokens of the rate."""
    asked = ("--rate", "50", "--no-cpu", "--gpu", "t4", "l4", "h100-sxm")
    assert all(one["cost_per_million_tokens"] is None for one in answer(capsys, LARGE, *asked)["candidates"])
    found = answer(capsys, LARGE, *asked, "--price", "t4=9", "l4=0.5", "h100-sxm=3")
    chosen = found["candidates"][found["ranked"][0]]
    assert chosen["target"] == "l4"
    tokens_per_hour = 50 * 128 * 3600
    assert chosen["cost_per_million_tokens"] == pytest.approx(0.5 * chosen["machines"] / tokens_per_hour * 1e6)


def test_a_model_too_large_for_one_gpu_is_split_over_several(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where one GPU has no room, two, four or eight share a replica, and the engine is vLLM's."""
    table = tmp_path / "gpus.toml"
    table.write_text(
        '[[gpus]]\nname = "tiny"\nmemory_gb = 0.575\nbandwidth_gb_s = 10\nfp16_tflops = 1\n'
        "int8_tops = 1\nlink_gb_s = 8\n"
        'compute_capability = 8.0\nsource = "nobody"\n',
        encoding="utf-8",
    )
    found = answer(capsys, LARGE, "--no-cpu", "--gpus", str(table), "--gpu", "tiny", "--requests", "1")
    (one,) = found["candidates"]
    assert one["tensor_parallel"] > 1
    assert one["engine"] == "vllm"
    assert any("tensor parallelism" in note for note in found["notes"])
    asked = (LARGE, "--no-cpu", "--gpus", str(table), "--gpu", "tiny", "--requests", "1")
    status, out, _ = run(capsys, *asked, "--output", "helm-values")
    values = yaml.safe_load(out)
    assert (status, values["server"]["gpu"]["count"]) == (0, one["tensor_parallel"])
    (tmp_path / "bundle.toml").write_text(values["bundle"], encoding="utf-8")
    (spec,) = read_bundle(tmp_path / "bundle.toml").models
    assert isinstance(spec, VllmSpec)
    assert spec.vllm.tensor_parallel_size == one["tensor_parallel"]
    assert helm_python.Chart.load(str(CHART)).render(values, name="demo", namespace="prod")
    (sized,) = answer(capsys, str(tmp_path / "bundle.toml"), "--gpus", str(table), "--gpu", "tiny")["candidates"]
    assert sized["precision"] == one["precision"]


def test_a_calibrated_cpu_has_times(capsys: pytest.CaptureFixture[str], calibration: Path) -> None:
    """The step of one sequence is at least its products, and the note says which machine was measured."""
    found = answer(
        capsys, LARGE, "--no-gpu", "--requests", "1", "--calibration", str(calibration), "--precision", "int8"
    )
    (one,) = found["candidates"]
    assert one["service"]["itl_s"] > 5_111_808 * 1e-10
    assert any("a processor" in note for note in found["notes"])


def test_helm_values_pass_the_chart_s_schema_and_render(capsys: pytest.CaptureFixture[str], calibration: Path) -> None:
    """Values of a GPU, of a plan on a T4, and of a CPU are taken by the chart, and name what was chosen."""
    chart = helm_python.Chart.load(str(CHART))
    cases = {
        "nvidia.com/mig-1g.10gb": ("--no-cpu", "--gpu", "h100-mig-1g.10gb"),
        "nvidia.com/gpu": ("--no-cpu", "--gpu", "t4"),
        "cpu": ("--no-gpu", "--calibration", str(calibration), "--precision", "int8"),
    }
    for kind, where in cases.items():
        status, out, _ = run(capsys, LARGE, "--rate", "3", *where, "--output", "helm-values")
        assert status == 0
        values = yaml.safe_load(out)
        bundle = tomllib.loads(values["bundle"])["models"][0]
        assert bundle["source"] == LARGE
        if kind == "cpu":
            assert values["server"]["resources"]["limits"]["memory"].endswith("Mi")
            assert bundle["dialect"] == "cpu"
        else:
            assert values["server"]["gpu"]["resource"] == kind
        rendered = chart.render(values, name="demo", namespace="prod")
        assert any("kind: Deployment" in text or "kind: StatefulSet" in text for text in rendered.values())


def test_the_spec_is_one_that_export_reads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, calibration: Path
) -> None:
    """The bundle that comes out is taken by fathom-export's own reader, with the limits that were sized."""
    path = tmp_path / "bundle.toml"
    status, _, _ = run(
        capsys, LARGE, "--requests", "3", "--no-gpu", "--precision", "int4", "--calibration", str(calibration),
        "--output", "spec", "--to", str(path),
    )  # fmt: skip
    assert status == 0
    (spec,) = read_bundle(path).models
    assert (spec.precision, dict(spec.limits)) == ("int4", {"max_batch": 3, "max_context": 640})


def test_the_page_stands_alone_and_escapes_what_it_shows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Both pictures are inline, nothing is fetched, and a hostile name stays text."""
    hostile = tmp_path / "<script>alert(1)<"
    hostile.mkdir()
    for name in ("config.json", "model.safetensors"):
        (hostile / name).symlink_to(Path(LARGE) / name)
    status, page, _ = run(capsys, str(hostile), "--rate", "5", "--output", "html")
    assert status == 0
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg")""", page)


def test_the_table_names_the_choice_and_what_it_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    """The text has every part of the memory, the choice, and the assumptions."""
    status, out, _ = run(capsys, LARGE, "--rate", "5", "--gpu", "l4")
    assert status == 0
    for words in (
        "weights",
        "KV cache, prompts",
        "KV cache, generation",
        "fragmentation",
        "choose: 1 x L4",
        "assumptions",
    ):
        assert words in out


def test_help_answers_at_once_and_needs_no_heavy_module() -> None:
    """``--help`` imports neither numpy nor onnx nor ONNX Runtime."""
    code = (
        "import sys\nfrom fathom_export.fit.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('numpy', 'onnx', 'onnxruntime', 'tokenizers', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--rate" in done.stdout


def test_a_calibration_comes_back_as_it_was_saved(calibration: Path, tmp_path: Path) -> None:
    """Reading and writing again gives the same file."""
    found = Calibration.load(calibration)
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == calibration.read_bytes()
    assert asdict(Calibration.load(tmp_path / "again.json")) == asdict(found)
