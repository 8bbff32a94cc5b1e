"""The command line: quick help, and one clear line for whatever is wrong."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HEAVY = ("gevent", "grpc", "jinja2", "locust", "matplotlib", "numpy", "rich", "tritonclient")


def fathom_load(arguments: Sequence[object], cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "fathom_loadtest", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    """The command line's own modules pull in no gRPC, gevent, numpy or plotting."""
    code = f"import sys, fathom_loadtest.cli as cli; cli.build_parser(); print(*{HEAVY} & set(sys.modules))".replace(
        str(HEAVY), f"set({HEAVY})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert loaded.stdout.strip() == ""
    shown = fathom_load(["run", "--help"], tmp_path)
    assert shown.returncode == 0
    assert "--users" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing to run; name a scenario's TOML file, or a model with --model"),
        (["--model", "m", "--task", "rank"], "invalid choice: 'rank'"),
        (["--model", "m"], "the task needs exactly one of --prompts and --input-tokens"),
        (
            ["--model", "m", "--input-tokens", 5, "--prompts", "x"],
            "the task needs exactly one of --prompts and --input-tokens",
        ),
        (["--model", "m", "--input-tokens", 0], "--input-tokens is 0; it must be at least 1"),
        (
            ["--model", "m", "--input-tokens", 5, "--input-tokens-stddev", -1],
            "--input-tokens.stddev is -1.0; it must not be negative",
        ),
        (["--model", "m", "--prompts", "x", "--output-tokens-stddev", 3], "needs --output-tokens"),
        (["--model", "m", "--input-tokens", 5, "--users", "1,x"], "argument --users: '1,x' is no number or list"),
        (["--model", "m", "--input-tokens", 5, "--users", "4,0"], "--users[1] is 0; it must be at least 1"),
        (["--model", "m", "--input-tokens", 5, "--requests", 0], "--requests is 0; it must be at least 1"),
        (
            ["--model", "m", "--input-tokens", 5, "--requests", 5, "--duration-s", 5],
            "the load needs exactly one of --duration-s and --requests",
        ),
        (["--model", "m", "--input-tokens", 5, "--duration-s", "nan"], "--duration-s is nan; it must be a number"),
        (["--model", "m", "--input-tokens", 5, "--timeout-s", 0], "--timeout-s is 0.0; it must be above 0"),
        (
            ["--model", "m", "--input-tokens", 5, "--warmup-requests", -1],
            "--warmup-requests is -1; it must not be negative",
        ),
        (["--model", "m", "--input-tokens", 5, "--slo", "ttft=200"], "'ttft' is no SLO; valid: ttft_ms, itl_ms"),
        (["--model", "m", "--input-tokens", 5, "--slo", "ttft_ms"], "SLO 'ttft_ms' is not NAME=MILLISECONDS"),
        (["--model", "m", "--input-tokens", 5, "--slo", "ttft_ms=1,ttft_ms=2"], "SLO ttft_ms is given twice"),
        (["--model", "m", "--input-tokens", 5, "--slo", "ttft_ms=-1"], "SLO ttft_ms=-1.0 is out of range"),
        (["--model", "m", "--task", "embed", "--input-tokens", 5, "--slo", "itl_ms=1"], "SLO itl_ms needs a stream"),
        (
            ["--model", "m", "--task", "embed", "--input-tokens", 5, "--output-tokens", 5],
            "--output-tokens is given, but task is 'embed'",
        ),
        (["--model", "m", "--input-tokens", 5, "--temperature", "nan"], "--temperature is nan; it must be a number"),
        (
            ["--model", "m", "--input-tokens", 5, "--ignore-eos"],
            "--ignore-eos is true, but answers would not end; give output_tokens",
        ),
        (["--model", "m", "--input-tokens", 5, "--fail-on-error-rate", 2], "--fail-on-error-rate 2.0 is out of range"),
        (["--model", "m", "--prompts", "absent.jsonl"], "absent.jsonl: cannot be read"),
        (["--model", "m", "--input-tokens", 5, "--url", "http://x:8001"], "target.url is 'http://x:8001'"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(arguments: list[object], complaint: str, tmp_path: Path) -> None:
    """The line names the argument and its value; there is no traceback and no report."""
    done = fathom_load(["run", *arguments], tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr
    assert not (tmp_path / "reports").exists()


def test_a_server_that_is_away_is_one_line_and_exit_1(tmp_path: Path) -> None:
    """The line names the address that nobody answers at."""
    done = fathom_load(["run", "--url", "127.0.0.1:1", "--model", "chat", "--input-tokens", 5], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot test 'chat' at 127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_process_that_has_loaded_grpc_is_refused(tmp_path: Path) -> None:
    """Where gRPC came before gevent every call would block all users, so nothing is started."""
    code = "import grpc, fathom_loadtest.cli as cli; raise SystemExit(cli.main(%r))"
    code %= ["run", "--model", "m", "--input-tokens", "5"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert "gRPC was loaded before gevent" in done.stderr
