"""``fathom-export --target device``: bundles for ONNX Runtime alone, and the budget that they keep to."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fathom_export.cli import main
from fathom_export.device.measure import runs_within
from fathom_export.errors import SpecError
from fathom_export.quantise.table import DEVICE_TARGET, TABLE, valid_precisions
from fathom_export.spec.bundle import read_bundle, read_devices
from fathom_export.spec.device import DeviceSpec
from fathom_server.engine.runner.onnx import OnnxRunner
from fathom_server.engine.settings import EngineLimits, EngineSettings, GraphDescription
from fathom_server.text.tokenizer import TextTokenizer

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "examples" / "models" / "small"
QUESTION = "Sort alphabetically: ship, lamp, apple"
CONTEXT = 128


def write(output: Path, *flags: str) -> int:
    """Write our smaller LLM for a device; returns the exit status."""
    command = ["--target", "device", str(SMALL), "--name", "phone", "--output", str(output)]
    return main([*command, "--max-context", str(CONTEXT), *flags])


def manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest."""
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return content


def size(folder: Path) -> int:
    """Bytes of a bundle's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Our smaller LLM in int8 and in int4; do not change them."""
    folder = tmp_path_factory.mktemp("bundles")
    for precision in ("int8", "int4"):
        assert write(folder / precision, "--precision", precision) == 0
    return {precision: folder / precision for precision in ("int8", "int4")}


def greedy(folder: Path, prompt: list[int], tokens: int) -> list[int]:
    """What the server's own runner makes of the bundle's graph."""
    said = manifest(folder)
    form = {name: said[name] for name in ("precision", "layers", "kv_heads", "head_dim", "vocabulary", "max_context")}
    settings = EngineSettings(
        GraphDescription(dialect="cpu", **form), EngineLimits(max_batch=1, max_context=CONTEXT, threads=1)
    )
    runner = OnnxRunner(folder, settings)
    found = [int(runner.prefill(0, 0, np.array(prompt, dtype=np.int64))[0].argmax())]
    while len(found) < tokens and found[-1] not in said["eos_token_ids"]:
        past = np.array([len(prompt) + len(found) - 1], dtype=np.int32)
        found.append(int(runner.decode(past, np.array(found[-1:], dtype=np.int64))[0].argmax()))
    return [token for token in found if token not in said["eos_token_ids"]]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_bundles_own_program_gives_the_servers_answer(bundles: dict[str, Path], precision: str) -> None:
    """``generate.py`` in the bundle needs nothing of ours, and its text is that of the server's runner, greedy."""
    folder = bundles[precision]
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "others = [name for name in sys.modules if name.startswith(('fathom', 'torch', 'transformers', 'triton'))]; "
        "sys.exit(f'imported {others}' if others else 0)"
    )
    command = [sys.executable, "-c", code, str(folder / "generate.py"), str(folder), QUESTION, "24"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    tokenizer = TextTokenizer.load(folder)
    prompt = tokenizer.encode_messages([{"role": "user", "content": QUESTION}])
    assert run.stdout.rstrip("\n") == tokenizer.decode(greedy(folder, prompt, 24)).rstrip("\n")


def test_the_example_is_the_bundles_program(bundles: dict[str, Path]) -> None:
    """What examples/device shows is, byte for byte, what every bundle carries."""
    assert (ROOT / "examples" / "device" / "generate.py").read_bytes() == (bundles["int8"] / "generate.py").read_bytes()


def test_a_bundle_says_what_it_is(bundles: dict[str, Path]) -> None:
    """Graph, weights, tokenizer, program and manifest with their sums, source and memory; nothing of Fathom's own."""
    for precision, folder in bundles.items():
        said = manifest(folder)
        assert {path.name for path in folder.iterdir()} == {*said["files"], "manifest.json"}
        assert {"model.onnx", "model.onnx.data", "tokenizer.json", "generate.py"} <= {*said["files"]}
        for name, digest in said["files"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert (said["format"], said["precision"], said["max_context"]) == (1, precision, CONTEXT)
        assert said["source"]["given"] == str(SMALL)
        assert 0 < said["memory"]["baseline_bytes"] < said["memory"]["peak_bytes"]
        assert b"fathom" not in (folder / "model.onnx").read_bytes().replace(b"fathom-export", b"")
    assert size(bundles["int4"]) < size(bundles["int8"])


def test_the_best_form_within_the_size_is_taken(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Where int8 is too large int4 is written, and what lay there before is replaced."""
    assert write(tmp_path / "phone") == 0
    assert manifest(tmp_path / "phone")["precision"] == "int8"
    between = (size(bundles["int4"]) + size(bundles["int8"])) / 2e6
    assert write(tmp_path / "phone", "--max-size-mb", str(between)) == 0
    assert (manifest(tmp_path / "phone")["precision"], manifest(tmp_path / "phone")["block_size"]) == ("int4", 32)
    assert [path.name for path in tmp_path.iterdir()] == ["phone"]


def test_a_budget_that_nothing_meets_names_what_comes_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with size and memory; what lay there before stays."""
    assert write(tmp_path / "phone", "--precision", "int8") == 0
    before = (tmp_path / "phone" / "manifest.json").read_bytes()
    capsys.readouterr()
    assert write(tmp_path / "phone", "--precision", "int4", "--max-memory-mb", "20") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no form of")
    assert error.count("\n") == 1
    for part in ("max_memory_mb = 20", "nearest comes int4 in blocks of", "MB of memory", "raise the budget"):
        assert part in error
    assert (tmp_path / "phone" / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["phone"]


def test_memory_is_checked_by_running_under_the_limit(bundles: dict[str, Path]) -> None:
    """Where the system gives no more, a bundle that needs more fails, and one that needs less runs."""
    assert runs_within(bundles["int4"], 2_000_000_000)
    assert not runs_within(bundles["int4"], 5_000_000)


@pytest.mark.parametrize(
    "entry", [entry for entry in TABLE if entry.target == DEVICE_TARGET], ids=lambda entry: entry.precision
)
def test_precisions_are_those_of_the_table(entry: Any) -> None:
    """A valid one is taken; another is refused with the reason and the valid ones."""
    if entry.valid:
        assert DeviceSpec("phone", "here", precision=entry.precision).precision == entry.precision
        return
    with pytest.raises(SpecError) as caught:
        DeviceSpec("phone", "here", precision=entry.precision)
    assert entry.text in str(caught.value)
    assert f"device: {', '.join(valid_precisions('generate', DEVICE_TARGET))}" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--task", "embed"], "task 'embed' does not go with target 'device'; valid tasks: generate"),
        (["--precision", "fp8"], "no CPU kernel multiplies fp8"),
        (["--max-size-mb", "0"], "max_size_mb is 0.0; it must be above 0"),
        (["--max-memory-mb", "nan"], "max_memory_mb is nan"),
        (["--max-context", "8"], "max_context is 8; it must be at least 32"),
        (["--max-context", "999999"], "999999"),
        (["--name", "a/b"], "name is 'a/b'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], part: str) -> None:
    """Exit status 2, the key, the value and the remedy; nothing is written."""
    assert write(tmp_path / "phone", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert part in error
    assert not list(tmp_path.iterdir())


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with something else in it and a file are left alone."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("one")
    (tmp_path / "file").write_text("file")
    for name, part in (("photos", "holds something else than a bundle"), ("file", "is a file")):
        assert write(tmp_path / name) == 2
        assert part in capsys.readouterr().err
    assert (tmp_path / "photos" / "one.jpg").read_text() == "one"


def test_devices_of_a_bundle_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All are written beside the file; flags beside it are refused, and an export for Triton leaves them alone."""
    path = tmp_path / "bundle.toml"
    path.write_text(
        f'[[devices]]\nname = "phone"\nsource = "{SMALL}"\nprecision = "int4"\nmax_context = {CONTEXT}\n'
        "max_size_mb = 50\n"
        f'[[models]]\nname = "chat"\nsource = "{SMALL}"\ntask = "generate"\n'
    )
    assert main(["--target=device", str(path)]) == 0
    assert "phone: int4 in blocks of 32" in capsys.readouterr().out
    assert manifest(tmp_path / "device" / "phone")["name"] == "phone"
    assert main(["--target=device", str(path), "--max-context", "64"]) == 2
    assert "--max-context cannot be given with a bundle" in capsys.readouterr().err
    assert [spec.name for spec in read_bundle(path).models] == ["chat"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "devices is missing or empty"),
        ("devices = 3", "devices is missing or empty"),
        ('[[devices]]\nname = "a"\n', "devices[0].source is missing"),
        (
            '[[devices]]\nname = "a"\nsource = "s"\nmax_size = 3\n',
            "devices[0].max_size is not a known key; did you mean",
        ),
        ('[[devices]]\nname = "a"\nsource = "s"\nprecision = "fp16"\n', "devices[0].precision 'fp16' does not go with"),
        ('[[devices]]\nname = "a"\nsource = "s"\n' * 2, "two devices write 'a'"),
    ],
)
def test_a_mistake_in_the_file_names_file_and_key(tmp_path: Path, text: str, part: str) -> None:
    """The path of the file, the table's number and the key."""
    path = tmp_path / "bundle.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_devices(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value)
