"""``fathom-export`` refuses an LLM that cannot fit, before it builds anything."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from fathom_export.cli import main
from fathom_export.errors import FitError
from fathom_export.fit.gate import check_export, spec_memory
from fathom_export.repository.generate_models import stored_model
from fathom_export.spec import GenerateSpec
from fathom_server.sizing.gate import SWITCH
from fathom_server.sizing.shape import StoredModel

ROOT = Path(__file__).resolve().parents[2]
LARGE = ROOT / "examples" / "models" / "large"
MIB = 1 << 20


def spec(**values: object) -> GenerateSpec:
    return GenerateSpec("chat", str(LARGE), **values)  # type: ignore[arg-type]


def test_the_command_refuses_with_a_breakdown_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache larger than any machine is one line, exit status 2, and no repository."""
    command = [str(LARGE), "--name", "chat", "--task", "generate", "--precision", "int8", "--quality", "off"]
    status = main([*command, "--repository", str(tmp_path / "models"), "--max-batch", str(1 << 25)])
    captured = capsys.readouterr()
    assert status == 2
    line = next(line for line in captured.err.splitlines() if line.startswith("error: "))
    for words in ("its engine takes up to", "weights 6 MiB", "KV cache", "what fits: limits.max_batch = "):
        assert words in line
    assert not (tmp_path / "models" / "chat").exists()


def test_the_settings_that_are_named_fit(tmp_path: Path) -> None:
    """Exactly as many tokens of cache as the refusal names are let through, and a block more is not."""
    limit = 150 * MIB
    with pytest.raises(FitError) as refused:
        check_export(spec(precision="int8"), LARGE, limit)
    tokens = int(re.findall(r"limits\.kv_cache_tokens = (\d+)", str(refused.value))[0])
    check_export(spec(precision="int8", limits={"kv_cache_tokens": tokens}), LARGE, limit)
    with pytest.raises(FitError):
        check_export(spec(precision="int8", limits={"kv_cache_tokens": tokens + 32}), LARGE, limit)


def test_a_smaller_precision_is_named_where_it_fits() -> None:
    """What fp32's cache and weights have no room for, int8 and int4 may have."""
    with pytest.raises(FitError, match="it fits in int8 or int4"):
        check_export(spec(precision="fp32"), LARGE, 200 * MIB)


def test_gpus_and_the_switch_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph for a GPU is not held against main memory, and the switch lets everything through."""
    check_export(spec(precision="fp16", dialect="cuda"), LARGE, MIB)
    monkeypatch.setenv(SWITCH, "0")
    check_export(spec(precision="fp32"), LARGE, MIB)


def test_both_lanes_of_a_profile_count() -> None:
    """The adaptive profile holds the weights twice, so it needs more than its int8 lane alone."""
    alone = spec_memory(spec(precision="int8"), LARGE).full().total
    check_export(spec(precision="int8"), LARGE, alone)
    with pytest.raises(FitError):
        check_export(spec(precision="int8", profile="adaptive"), LARGE, alone)


def test_engine_json_says_what_the_arithmetic_needs() -> None:
    """The shape that export stores is that of the headers, and goes through JSON."""
    stored = stored_model(spec(precision="int8"), LARGE)
    assert stored.shape.parameters == 5_115_520
    assert StoredModel.from_json(json.loads(json.dumps(asdict(stored)))) == stored
