"""Judging takes no more memory than there is."""

import json
import math
from pathlib import Path

import pytest
from tests.export.test_export_repository import Quiet

from fathom_export.decoder.checkpoint import Checkpoint
from fathom_export.errors import QualityError
from fathom_export.export_model import export_model
from fathom_export.quality import decoder_judge
from fathom_export.quality.memory import JudgingPlan, available_bytes
from fathom_export.spec import GenerateSpec


def float32_bytes(source: Path) -> int:
    """Bytes of a checkpoint's weights in float32."""
    return 4 * sum(math.prod(tensor.shape) for tensor in Checkpoint.open(source).tensors.values())


def test_the_most_telling_comparison_is_kept(tiny_llm: Path) -> None:
    """With ever less memory first layers go, then our own graph, then the source model, each with its reason."""
    size = float32_bytes(tiny_llm)
    plans = {
        share: JudgingPlan.of(tiny_llm, size, wants_source=True, wants_own=True, available=int(share * size / 0.9) + 9)
        for share in (12, 6, 4, 2)
    }
    found = {share: (plan.with_source, plan.with_own, plan.with_layers) for share, plan in plans.items()}
    assert found == {
        12: (True, True, True),
        6: (True, True, False),
        4: (True, False, False),
        2: (False, False, False),
    }
    assert [len(plan.notes) for plan in plans.values()] == [0, 1, 1, 2]
    assert "our own fp32 graph, for that takes" in plans[4].notes[0]
    unknown = JudgingPlan.of(tiny_llm, size, wants_source=True, wants_own=True, available=None)
    assert (unknown.with_layers, unknown.notes) == (True, ())


def test_our_own_graph_stands_in_for_a_source_that_is_not_wanted(tiny_llm: Path) -> None:
    """Without torch an fp32 export is held against our graph of the other dialect."""
    plan = JudgingPlan.of(tiny_llm, 1, wants_source=False, wants_own=False, available=available_bytes())
    assert (plan.with_source, plan.with_own) == (False, True)


def test_this_machine_says_how_much_it_has() -> None:
    """The figure is of the order of a machine's memory."""
    available = available_bytes()
    assert available is None or 0 < available < 1 << 50


def test_a_card_says_what_was_left_out(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for the source model alone the card compares with that, and notes the rest."""
    monkeypatch.setattr(decoder_judge, "available_bytes", lambda: int(3 * float32_bytes(tiny_llm) / 0.9))
    spec = GenerateSpec("chat", str(tiny_llm), precision="int8", limits={"max_context": 64})
    export_model(spec, Path(), tmp_path / "repository", Quiet(), accept_quality="random weights")
    card = json.loads((tmp_path / "repository" / "chat" / "1" / "quality.json").read_text())
    assert [each["reference"] for each in card["logits"]] == ["the source model (transformers, fp32)"]
    assert card["layers"] == []
    assert any(note.startswith("our own fp32 graph, for that takes") for note in card["notes"])


def test_a_card_without_any_comparison_fails(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is let pass only because nobody could look at it."""
    monkeypatch.setattr(decoder_judge, "available_bytes", lambda: 1)
    spec = GenerateSpec("chat", str(tiny_llm), limits={"max_context": 64})
    with pytest.raises(QualityError, match="nothing was compared: the source model, for that takes"):
        export_model(spec, Path(), tmp_path / "repository", Quiet())
