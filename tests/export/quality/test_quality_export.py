"""Exports and their cards: what passes, what fails and leaves the old model, and what is recorded."""

import getpass
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fathom_export.errors import ExportError, QualityError, SourceError
from fathom_export.export_model import Outcome, export_model
from fathom_export.quality import decoder_judge
from fathom_export.quality.decoder_layers import compare_decoder_layers
from fathom_export.spec import GenerateSpec
from fathom_export.spec.model_spec import EmbedSpec, ModelSpec
from fathom_export.spec.quality import DecoderQuality, EncoderQuality
from fathom_server.engine.settings import EngineSettings
from fathom_server.native.library import SWITCH, library_path

QUESTIONS = ("how are you?", "how do I reset my password", "a long way from home", "the cat sat on the mat")


class Quiet:
    """A reporter that shows nothing."""

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter``."""

    def advance(self, done: int, total: int) -> None:
        """See ``Reporter``."""


def export(spec: ModelSpec, repository: Path, **options: Any) -> Outcome:
    """Export one model."""
    return export_model(spec, Path(), repository, Quiet(), **options)


def card(repository: Path, model: str = "chat", version: int = 1) -> Any:
    """A card as JSON."""
    return json.loads((repository / model / str(version) / "quality.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def source(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLM with a held-out set of its own."""
    folder = Path(shutil.copytree(tiny_llm, tmp_path_factory.mktemp("judged") / "model"))
    rows = [
        {
            "id": f"row-{number}",
            "task": ("odd", "even")[number % 2],
            "messages": [{"role": "user", "content": question}],
            "answer": "hello, how are you?",
            "checker": "text",
        }
        for number, question in enumerate(QUESTIONS)
    ]
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the repository with the tiny LLM in a precision."""
    repositories: dict[str, Path] = {}

    def make(precision: str) -> Path:
        if precision not in repositories:
            repositories[precision] = tmp_path_factory.mktemp(precision)
            export(GenerateSpec("chat", str(source), precision=precision), repositories[precision])  # type: ignore[arg-type]
        return repositories[precision]

    return make


def test_an_fp32_export_says_what_its_source_says(exported: Callable[[str], Path], source: Path) -> None:
    """Its card has the source's distributions, perplexity and every greedy token."""
    found = card(exported("fp32"))
    assert found["verdict"] == "passed"
    assert found["measured"]["origin"] == "held-out"
    (against,) = found["logits"]
    assert "source model" in against["reference"]
    figures = against["agreement"]
    assert figures["mean_kl"] <= figures["max_kl"] < 1e-6
    assert figures["top1"] == 1.0
    assert figures["perplexity"] == pytest.approx(figures["reference_perplexity"], rel=1e-5)
    parity = found["token_parity"]
    assert parity["exact"] == parity["prompts"] == len(QUESTIONS)
    assert parity["matching_tokens"] == parity["prompts"] * parity["tokens_each"]
    assert found["accuracy"]["rows"] == len(QUESTIONS)
    assert set(found["accuracy"]["by_task"]) == {"odd", "even"}
    assert found["source_bytes"] == (source / "model.safetensors").stat().st_size


def test_an_int8_export_is_held_against_source_and_fp32(exported: Callable[[str], Path]) -> None:
    """Both comparisons, the layers' errors and the sizes are in its card, and within int8's thresholds."""
    found = card(exported("int8"))
    assert found["verdict"] == "passed"
    assert [entry["reference"].split(" (")[0] for entry in found["logits"]] == [
        "the source model",
        "our fp32 graph, cpu dialect",
    ]
    for entry in found["logits"]:
        assert 0 < entry["agreement"]["mean_kl"] <= found["thresholds"]["max_kl"]
        assert 0.99 < entry["agreement"]["mean_cosine"] < 1
    layers = [error["layer"] for error in found["layers"]]
    halves = [f"layer.{layer}.{half}" for layer in range(2) for half in ("attention", "mlp")]
    assert layers == ["embedding", *halves, "lm_head"]
    errors = {error["layer"]: error["relative_l2"] for error in found["layers"]}
    assert all(0 < error < 0.1 for error in errors.values())
    assert found["worst_layers"] == sorted(layers, key=lambda layer: -errors[layer])
    assert found["export_bytes"] < found["source_bytes"] / 2
    assert found["accuracy"]["reference_accuracy"] is not None


def test_a_card_says_which_graph_was_judged(
    exported: Callable[[str], Path], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one that is served: the native graph where its operators are, else the stock one, figures and all."""
    served = card(exported("int8"))
    monkeypatch.setenv(SWITCH, "0")
    export(GenerateSpec("chat", str(source), precision="int8"), tmp_path)
    stock = card(tmp_path)
    assert stock["graph"] == "model.onnx"
    assert "by model.onnx." in (tmp_path / "chat/1/quality.md").read_text(encoding="utf-8")
    monkeypatch.delenv(SWITCH)
    if library_path() is not None:
        assert served["graph"] == "model.native.onnx"
        assert any("layers of model.native.onnx" in note for note in served["notes"])
        assert stock["logits"] != served["logits"]


def test_the_card_is_written_for_people_too(exported: Callable[[str], Path]) -> None:
    """quality.md has the figures beside their limits and shows the picture, which the passport counts as written."""
    folder = exported("int8") / "chat" / "1"
    text = (folder / "quality.md").read_text(encoding="utf-8")
    assert text.startswith("# chat: int8, cpu dialect: passed")
    assert "| layer.0.mlp |" in text
    assert "(≤ 0.05)" in text
    assert "![Quality of chat](quality.svg)" in text
    assert "<svg" in (folder / "quality.svg").read_text(encoding="utf-8")
    written = json.loads((folder / "passport.json").read_text())["files"]
    assert {"chat/1/quality.json", "chat/1/quality.md", "chat/1/quality.svg"} <= set(written)


def test_a_card_that_fails_leaves_the_old_model(source: Path, tmp_path: Path) -> None:
    """The error names figure and threshold and what to do, and the repository is byte for byte as it was."""
    repository = tmp_path / "repository"
    export(GenerateSpec("chat", str(source)), repository)
    before = contents(repository)
    strict = GenerateSpec("chat", str(source), precision="int8", quality=DecoderQuality(max_kl=1e-9))
    with pytest.raises(QualityError, match=r"mean KL divergence against .* above max_kl 1e-09.*--accept-quality"):
        export(strict, repository)
    assert contents(repository) == before


def test_an_accepted_card_records_who_and_why(source: Path, tmp_path: Path) -> None:
    """With a reason the export is written; its card keeps the failures, the user, the reason and the time."""
    strict = GenerateSpec("chat", str(source), precision="int8", quality=DecoderQuality(max_kl=1e-9))
    export(strict, tmp_path, accept_quality="only for a trial")
    found = card(tmp_path)
    assert found["verdict"] == "failed, accepted"
    assert any("above max_kl 1e-09" in failure for failure in found["failures"])
    assert (found["override"]["user"], found["override"]["reason"]) == (getpass.getuser(), "only for a trial")
    assert found["override"]["time"].endswith("+00:00")
    assert "only for a trial" in (tmp_path / "chat" / "1" / "quality.md").read_text(encoding="utf-8")


def test_a_reason_is_not_recorded_where_none_was_needed(source: Path, tmp_path: Path) -> None:
    """A card that passes has no override."""
    export(GenerateSpec("chat", str(source)), tmp_path, accept_quality="just in case")
    assert card(tmp_path)["override"] is None


def test_other_thresholds_or_questions_make_the_model_anew(source: Path, tmp_path: Path) -> None:
    """What decides whether a model may pass belongs to what it was made from."""
    own = Path(shutil.copytree(source, tmp_path / "own"))
    spec = GenerateSpec("chat", str(own))
    export(spec, tmp_path / "repository")
    assert export(spec, tmp_path / "repository").was_up_to_date
    looser = replace(spec, quality=DecoderQuality(max_kl=0.5))
    assert not export(looser, tmp_path / "repository").was_up_to_date
    lines = (own / "held_out.jsonl").read_text().splitlines(keepends=True)
    (own / "held_out.jsonl").write_text("".join(lines[:-1]))
    assert not export(looser, tmp_path / "repository").was_up_to_date
    assert card(tmp_path / "repository", version=3)["accuracy"]["rows"] == len(QUESTIONS) - 1


def test_without_torch_our_own_graph_is_the_reference(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card says so: int8 against fp32, and fp32 against the other dialect, greedy tokens included."""
    monkeypatch.setattr(decoder_judge, "has_torch", lambda: False)
    for precision, reference in (("int8", "cpu"), ("fp32", "portable")):
        export(GenerateSpec("chat", str(source), precision=precision), tmp_path / precision)  # type: ignore[arg-type]
        found = card(tmp_path / precision)
        assert [entry["reference"] for entry in found["logits"]] == [f"our fp32 graph, {reference} dialect"]
        assert found["token_parity"]["reference"] == f"our fp32 graph, {reference} dialect"
    assert found["token_parity"]["exact"] == len(QUESTIONS)
    assert all(error["relative_l2"] < 1e-5 for error in found["layers"])


def test_a_model_without_questions_is_judged_on_what_it_writes(tiny_llm: Path, tmp_path: Path) -> None:
    """The card says that the text is the model's own; the same seeds give the same figures again."""
    repositories = [tmp_path / "one", tmp_path / "two"]
    for repository in repositories:
        export(GenerateSpec("chat", str(tiny_llm), precision="int8"), repository)
    one, two = map(card, repositories)
    assert one["measured"]["origin"] == "generated"
    assert one["accuracy"] is None
    assert any("held_out.jsonl" in note for note in one["notes"])
    assert one["measured"]["tokens"] > 300
    assert one["logits"] == two["logits"]


def test_a_users_text_is_judged_on(source: Path, tmp_path: Path) -> None:
    """Every token of the file but each passage's first counts."""
    text = tmp_path / "mine.txt"
    text.write_text("the cat sat on the mat, a long way from home. " * 30)
    quality = DecoderQuality(evaluation_text=str(text))
    export(GenerateSpec("chat", str(source), precision="int8", quality=quality), tmp_path / "repository")
    found = card(tmp_path / "repository")
    assert (found["measured"]["origin"], found["measured"]["description"]) == ("file", "the text of mine.txt")
    positions = found["logits"][0]["agreement"]["positions"]
    assert positions == found["measured"]["tokens"] - found["measured"]["texts"]


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_a_text_that_holds_nothing_is_refused(source: Path, tmp_path: Path, content: str | None) -> None:
    """A file that is missing or empty is an error naming it, and nothing is written."""
    text = tmp_path / "mine.txt"
    if content is not None:
        text.write_text(content)
    quality = DecoderQuality(evaluation_text=str(text))
    with pytest.raises(SourceError, match=r"mine\.txt"):
        export(GenerateSpec("chat", str(source), quality=quality), tmp_path / "repository")
    assert not list((tmp_path / "repository").iterdir())


def test_no_judging_is_said_on_the_card(source: Path, tmp_path: Path) -> None:
    """With effort off nothing is measured, and the card says whose wish that was."""
    export(GenerateSpec("chat", str(source), precision="int8", quality=DecoderQuality(effort="off")), tmp_path)
    found = card(tmp_path)
    assert (found["verdict"], found["logits"]) == ("not measured", [])
    assert not (tmp_path / "chat" / "1" / "quality.svg").exists()


def test_the_comparison_of_layers_finds_the_damaged_one(
    exported: Callable[[str], Path], source: Path, tmp_path: Path
) -> None:
    """One weight matrix of layer 1's MLP scaled by 1.5 shows in that layer alone, though all after it stray."""
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    weights = load_file(damaged / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= np.float32(1.5)
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    quality = DecoderQuality(effort="off")
    export(GenerateSpec("chat", str(damaged), quality=quality), tmp_path / "repository")
    folders = exported("fp32") / "chat" / "1", tmp_path / "repository" / "chat" / "1"
    graphs = [EngineSettings.load(folder).graph for folder in folders]
    texts = [list(range(3, 40)), list(range(60, 90))]
    paths = folders[0] / "model.onnx", folders[1] / "model.onnx"
    errors = {error.layer: error for error in compare_decoder_layers(paths, graphs[0], graphs[1], {}, texts)}
    bad = errors.pop("layer.0.mlp")
    assert bad.relative_l2 == pytest.approx(0.5, rel=1e-4)
    assert bad.cosine == pytest.approx(1.0, abs=1e-6)
    assert all(error.relative_l2 < 1e-6 for error in errors.values())
    assert errors["layer.1.mlp"].accumulated > 1e-3


def test_a_damaged_fp32_export_does_not_pass(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that computes something else than its source fails by its distributions and its greedy tokens."""
    from fathom_export.decoder import checkpoint

    read = checkpoint.StoredTensor.read

    def spoiled(self: Any) -> Any:
        values = read(self)
        return -values if self.name == "model.layers.1.mlp.up_proj.weight" else values

    monkeypatch.setattr(checkpoint.StoredTensor, "read", spoiled)
    with pytest.raises(QualityError, match=r"(?s)max_kl.*greedy tokens differ from those of the source model"):
        export(GenerateSpec("chat", str(source)), tmp_path)


def test_an_encoders_card(tiny_bert: Path, tmp_path: Path) -> None:
    """An fp32 encoder has its source's embeddings; an int8 one has its layers compared."""
    export(EmbedSpec("texts", str(tiny_bert)), tmp_path)
    found = card(tmp_path, "texts_encoder")
    assert found["verdict"] == "passed"
    (against,) = found["embeddings"]
    assert against["min_cosine"] > 0.99999
    assert against["rank_correlation"] > 0.9999
    assert against["pairs"] == against["texts"] * (against["texts"] - 1) // 2
    loose = EncoderQuality(min_cosine=0.5, min_rank_correlation=0.5)
    try:
        export(EmbedSpec("texts", str(tiny_bert), precision="int8", quality=loose), tmp_path / "int8")
    except ExportError as error:  # the builder's own check of random weights, not the card
        pytest.skip(str(error))
    found = card(tmp_path / "int8", "texts_encoder")
    assert [entry["reference"] for entry in found["embeddings"]] == ["the source model (torch, fp32)", "our fp32 graph"]
    layers = [error["layer"] for error in found["layers"]]
    assert len(set(layers)) == len(layers) == 6  # the embedding, two halves of each of two layers, the pooling
    assert layers[-1] == "sentence_embedding"
    assert all(0 < error["relative_l2"] < 0.2 for error in found["layers"][1:-1])


def test_an_encoder_that_misses_a_threshold_is_not_written(tiny_bert: Path, tmp_path: Path) -> None:
    """The error names the text whose embedding is farthest off."""
    strict = EmbedSpec("texts", str(tiny_bert), quality=EncoderQuality(min_rank_correlation=1, min_cosine=1))
    with pytest.raises(QualityError, match=r"the cosine of the embedding of '.*' .* below min_cosine 1"):
        export(strict, tmp_path / "repository")
    assert not list((tmp_path / "repository").iterdir())


def test_the_picture_is_drawn_as_png_too(source: Path, tmp_path: Path) -> None:
    """Divergences, tasks and layers stand beside each other on white ground, each with something drawn."""
    from matplotlib.image import imread

    from fathom_export.quality.decoder_judge import DecoderJudge
    from fathom_export.quality.picture import save_picture

    spec = GenerateSpec("chat", str(source), precision="int8")
    export(spec, tmp_path / "repository")
    work = tmp_path / "work"
    work.mkdir()
    judged = DecoderJudge(spec, source, tmp_path / "repository" / "chat" / "1", work, None).card(
        lambda done, total: None
    )
    save_picture(judged, tmp_path / "quality.png")
    pixels = imread(tmp_path / "quality.png")[..., :3]
    assert pixels.shape[1] > 3 * pixels.shape[0]
    assert np.median(pixels) == 1.0
    for panel in np.array_split(pixels, 3, axis=1):
        colours = np.unique((panel.reshape(-1, 3) * 15).astype(int), axis=0)
        assert len(colours) > 8
