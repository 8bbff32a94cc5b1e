"""Licences: the table, the decision, and what the teacher's card says."""

import json
from pathlib import Path

import pytest
from tests.synth.synth_job import write_job

from fathom_synth.errors import JobError, LicenceError
from fathom_synth.job import TeacherSettings
from fathom_synth.job_file import read_job
from fathom_synth.licences import decide, policies
from fathom_synth.run import Plan
from fathom_synth.teacher import read_teacher

MODELS = Path("examples/models").resolve()


def card(folder: Path, matter: str) -> Path:
    """A model card with this front matter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\n{matter}\n---\n# model\n", encoding="utf-8")
    return folder


def test_every_licence_in_the_table_has_a_verdict_and_a_source() -> None:
    """The table is whole: a known verdict, an https source, and conditions wherever there are any."""
    for name, policy in policies().items():
        assert name == name.lower()
        assert policy.training in ("allowed", "conditional", "forbidden"), name
        assert policy.source.startswith("https://"), name
        assert bool(policy.conditions) == (policy.training != "allowed"), name


@pytest.mark.parametrize(("name", "policy"), list(policies().items()))
def test_only_what_is_allowed_passes_without_the_users_word(name: str, policy: object) -> None:
    """Conditions and refusals need the licence's name in the job, and are then on the record."""
    training = policies()[name].training
    if training == "allowed":
        assert decide(name, None, "card").override is None
        return
    with pytest.raises(LicenceError, match=r'or take it on yourself with override_licence = "'):
        decide(name, None, "card")
    decision = decide(name, name.upper(), "card")
    assert (decision.training, decision.override) == (training, name.upper())


def test_unknown_and_missing_licences_are_refused_until_named() -> None:
    """What nobody has read is not taken for allowed."""
    with pytest.raises(LicenceError, match="its licence 'acme-1' is not in the table"):
        decide("acme-1", None, "card")
    with pytest.raises(LicenceError, match=r'names no licence.*override_licence = "none"'):
        decide(None, None, "card")
    assert decide("acme-1", "acme-1", "card").training == "unknown"
    assert decide(None, "none", "card").licence == "none"
    with pytest.raises(LicenceError, match="override_licence is 'llama3', and the card card says 'llama2'"):
        decide("llama2", "llama3", "card")


@pytest.mark.parametrize(
    ("matter", "licence"),
    [
        ("license: llama3", "llama3"),
        ("license: other\nlicense_name: Gemma", "gemma"),
        ("license: other", "other"),
        ("license: [mit]", "mit"),
        ("language: en", "none"),
    ],
)
def test_the_licence_is_read_from_the_cards_front_matter(tmp_path: Path, matter: str, licence: str) -> None:
    """``license``, or the name beside ``other``; a card without one has none."""
    folder = card(tmp_path / "m", matter)
    settings = TeacherSettings(model="m", card=folder, revision="r", override_licence=licence)
    assert read_teacher(settings).decision.licence == licence


def test_the_examples_teacher_may_teach_and_has_the_revision_of_its_files() -> None:
    """The large example model is Apache-2.0; its revision is a checksum of config and weights."""
    teacher = read_teacher(TeacherSettings(model="large", card=MODELS / "large"))
    assert (teacher.decision.licence, teacher.decision.training) == ("apache-2.0", "allowed")
    assert teacher.source == "large"
    assert teacher.revision.startswith("sha256:")
    assert teacher.revision != read_teacher(TeacherSettings(model="s", card=MODELS / "small")).revision


def test_an_exports_passport_leads_to_the_card_and_the_revision(tmp_path: Path) -> None:
    """The newest version's passport names the checkpoint's folder, where the card lies, and the files' checksums."""
    source = card(tmp_path / "checkpoint", "license: mit")
    for version, revision in ((2, "abc"), (10, None)):
        origin = {"source": {"given": str(source), "kind": "folder", "revision": revision}, "source_files": {"a": "1"}}
        folder = tmp_path / "repository" / "chat" / str(version)
        folder.mkdir(parents=True)
        (folder / "passport.json").write_text(json.dumps({"origin": origin}))
    repository = tmp_path / "repository" / "chat"
    newest = read_teacher(TeacherSettings(model="chat", card=repository))
    assert newest.decision.licence == "mit"
    assert newest.revision.startswith("sha256:")
    older = read_teacher(TeacherSettings(model="chat", card=repository / "2" / "passport.json"))
    assert older.revision == "abc"
    (source / "README.md").unlink()
    with pytest.raises(JobError, match=r"where no model card is found from here; give teacher\.card the path"):
        read_teacher(TeacherSettings(model="chat", card=repository))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"---\nlicense: [a, b]\n---\n", "names 2 licences"),
        (b"---\nlicense: {\n---\n", "its front matter is not YAML"),
        (b"\xff", "is not UTF-8"),
        (None, "which cannot be read"),
    ],
)
def test_a_card_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    """The error names the card and what would do."""
    path = tmp_path / "README.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JobError, match=message):
        read_teacher(TeacherSettings(model="m", card=path, revision="r"))


def test_a_card_without_weights_needs_a_revision(tmp_path: Path) -> None:
    """Where nothing tells which weights answer, the job has to."""
    with pytest.raises(JobError, match=r"holds no weights beside the card.*give teacher\.revision"):
        read_teacher(TeacherSettings(model="m", card=card(tmp_path / "m", "license: mit")))


def test_a_job_with_a_teacher_that_may_not_teach_asks_nothing(tmp_path: Path) -> None:
    """The refusal comes before any request, and before any file is written."""
    text = '[[prompts]]\nname = "p"\ntemplate = "x"\n'
    job = write_job(tmp_path, text, card="---\nlicense: llama3\n---\n")
    with pytest.raises(LicenceError, match="its licence 'llama3' forbids training on its answers"):
        Plan.of(read_job(job.path))
    done = job.run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert not (job.output / "rows.jsonl").exists()
