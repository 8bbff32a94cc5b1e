"""Jobs run against a real Triton whose answers are known: rows, resumption, absences, refusals, full disks."""

import json
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.client import triton
from tests.synth.conftest import REPOSITORY
from tests.synth.synth_job import SynthJob, read_lines, write_job

PROMPT = """
[sampling]
samples = 2
max_tokens = 200
[[prompts]]
name = "tell"
template = '''{"delay_s": 0.02}
{{ text }}'''
seeds = "seeds.jsonl"
[[filters]]
filter = "length"
max_characters = 9
[[filters]]
filter = "duplicates"
over = "answer"
"""
SEEDS = [{"text": f"word {number % 50} ü"} for number in range(60)]
OUTPUTS = ("rows.jsonl", "rejected.jsonl", "quarantine.jsonl")


def outputs(job: SynthJob) -> dict[str, bytes]:
    """What a job wrote, byte by byte; of the card all but the time."""
    found = {name: (job.output / name).read_bytes() for name in OUTPUTS}
    card = json.loads((job.output / "card.json").read_text(encoding="utf-8")) | {"created": ""}
    return found | {"card": json.dumps(card).encode()}


def wait_for_answers(job: SynthJob, count: int) -> None:
    """Wait until so many answers are in the journal."""
    deadline = time.monotonic() + 30
    while len(job.answered()) < count:
        assert time.monotonic() < deadline, f"{len(job.answered())} answers"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(stand_in: str, tmp_path_factory: pytest.TempPathFactory) -> SynthJob:
    """A job that ran in one go."""
    job = write_job(tmp_path_factory.mktemp("whole"), PROMPT, [*SEEDS, "no json", {"txt": 1}], url=stand_in)
    done = job.run()
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == {
        "file": str(job.output / "rows.jsonl"), "rows": 50, "answers": 120, "malformed": 2, "refused": 0,
    }  # fmt: skip
    return job


def test_rows_are_in_chat_form_with_their_provenance(uninterrupted: SynthJob) -> None:
    """A row tells who answered what under which licence, from which template and line, how sampled, how scored."""
    rows = uninterrupted.rows()
    assert [row["messages"][-1]["content"] for row in rows[:3]] == ["word 0 ü", "word 1 ü", "word 2 ü"]
    row = rows[7]
    assert row["messages"] == [
        {"role": "user", "content": '{"delay_s": 0.02}\nword 7 ü'}, {"role": "assistant", "content": "word 7 ü"},
    ]  # fmt: skip
    origin = row["provenance"]
    assert origin["teacher"] == {
        "model": "chat", "source": uninterrupted.path.parent.name, "revision": "r1", "licence": "apache-2.0",
        "training": "allowed", "override": None,
    }  # fmt: skip
    assert (origin["prompt"]["name"], origin["prompt"]["seeds"], origin["prompt"]["line"]) == ("tell", "seeds.jsonl", 8)
    sampling = origin["sampling"]
    assert (sampling["n"], sampling["sample"], sampling["temperature"], sampling["max_tokens"]) == (2, 0, 0.7, 200)
    characters = [-ord(character) / 1000 for character in "word 7 ü"]
    assert origin["scores"]["mean_logprob"] == pytest.approx(sum(characters) / len(characters), abs=1e-5)
    assert origin["scores"]["min_logprob"] == pytest.approx(min(characters), abs=1e-5)
    assert (origin["finish_reason"], origin["tokens"]) == ("stop", 8)


def test_every_answer_is_a_row_or_a_rejection_with_its_reason(uninterrupted: SynthJob) -> None:
    """What came is what passed and what was dropped; the card counts the same, filter by filter."""
    rejected = read_lines(uninterrupted.output / "rejected.jsonl")
    ids = [row["id"] for row in (*uninterrupted.rows(), *rejected)]
    assert len(ids) == len(set(ids)) == 120
    card = json.loads((uninterrupted.output / "card.json").read_text(encoding="utf-8"))
    counted = {stage["filter"]: (stage["seen"], stage["dropped"], stage["reasons"]) for stage in card["filters"]}
    assert counted == {"length": (120, 60, {"too long": 60}), "duplicates": (60, 10, {"came before": 10})}
    for stage in card["filters"]:
        assert stage["dropped"] == sum(row["filter"] == stage["filter"] for row in rejected)
    assert "| duplicates |" in (uninterrupted.output / "README.md").read_text(encoding="utf-8")


def test_malformed_rows_are_in_the_quarantine_with_their_lines(uninterrupted: SynthJob) -> None:
    """File, line, reason and the row itself, so that it can be mended."""
    quarantine = read_lines(uninterrupted.output / "quarantine.jsonl")
    assert [(row["file"], row["line"]) for row in quarantine] == [("seeds.jsonl", 61), ("seeds.jsonl", 62)]
    assert quarantine[0]["reason"].startswith("is not JSON")
    assert quarantine[0]["raw"] == "no json"
    assert "'text' is undefined" in quarantine[1]["reason"]


def test_a_job_killed_again_and_again_ends_with_the_same_bytes(
    stand_in: str, uninterrupted: SynthJob, tmp_path: Path
) -> None:
    """Killed with -9 at five moments, then to the end: nothing lost, nothing twice, the output of one run."""
    job = write_job(tmp_path / uninterrupted.path.parent.name, PROMPT, [*SEEDS, "no json", {"txt": 1}], url=stand_in)
    for answered in (1, 9, 10, 33, 59):
        process = job.start()
        wait_for_answers(job, answered)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        keys = job.answered()
        assert len(keys) == len(set(keys)) >= answered
    before = job.answered()
    done = job.run()
    assert done.returncode == 0, done.stderr
    keys = job.answered()
    assert keys[: len(before)] == before
    assert len(keys) == len(set(keys)) == len(SEEDS)
    assert outputs(job) == outputs(uninterrupted)


def test_a_server_that_goes_away_is_waited_for(uninterrupted: SynthJob, tmp_path: Path) -> None:
    """The server is killed in mid-job and comes back on its port: the job says so, goes on, and loses nothing."""
    server = triton.start(REPOSITORY, tmp_path / "first")
    try:
        job = write_job(
            tmp_path / uninterrupted.path.parent.name, PROMPT, [*SEEDS, "no json", {"txt": 1}], url=server.url
        )
        process = job.start()
        wait_for_answers(job, 12)
        server.kill()
        time.sleep(1)
        assert process.poll() is None
        server = triton.start(REPOSITORY, tmp_path / "second", grpc_port=server.grpc_port)
        _, said = process.communicate(timeout=60)
    finally:
        server.kill()
    assert process.returncode == 0, said
    assert "the server is away (" in said
    assert "the server is back after" in said
    assert outputs(job) == outputs(uninterrupted)


def test_a_server_that_stays_away_ends_the_job_with_what_to_do(tmp_path: Path) -> None:
    """After server.wait_s the job gives up by name, with the status of the server's faults."""
    text = PROMPT.replace("[sampling]", "", 1).replace("samples = 2\nmax_tokens = 200", "")
    job = write_job(tmp_path, text, SEEDS[:2], url="127.0.0.1:1")
    job.path.write_text(job.path.read_text(encoding="utf-8").replace("wait_s = 60", "wait_s = 0.5"), encoding="utf-8")
    done = job.run()
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: the server stayed away for 0.5 s (")
    assert "run the same command again when it is back, or raise server.wait_s" in last
    assert "Traceback" not in done.stderr


def test_a_full_disk_stops_the_job_and_costs_no_answer(stand_in: str, uninterrupted: SynthJob, tmp_path: Path) -> None:
    """Where the journal can grow no further the job ends by name; with room the same command brings the same bytes."""
    job = write_job(tmp_path / uninterrupted.path.parent.name, PROMPT, [*SEEDS, "no json", {"txt": 1}], url=stand_in)
    limit = (uninterrupted.output / "answers.jsonl").stat().st_size // 2

    def bound() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    full = job.run(preexec_fn=bound)
    assert full.returncode == 2
    assert "answers.jsonl: there is no room for it" in full.stderr
    assert "what was answered is kept: make room, and run the same command again" in full.stderr
    kept = job.answered()
    assert 10 < len(kept) < len(SEEDS)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert job.answered()[: len(kept)] == kept
    assert outputs(job) == outputs(uninterrupted)


def test_ctrl_c_ends_the_job_and_the_command_goes_on(stand_in: str, tmp_path: Path) -> None:
    """An interrupt leaves with 130 and one line; what was answered stays."""
    job = write_job(tmp_path, PROMPT, SEEDS, url=stand_in)
    process = job.start()
    wait_for_answers(job, 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said.splitlines()[-1]) == (130, "stopped; the same command goes on from here")
    assert len(job.answered()) >= 5


def test_other_filters_ask_nothing_again(uninterrupted: SynthJob, tmp_path: Path) -> None:
    """Over answers that are there, a changed filter or format needs no server at all; Parquet holds the same rows."""
    text = uninterrupted.path.read_text(encoding="utf-8")
    other = uninterrupted.path.with_name("other.toml")
    other.write_text('format = "parquet"\n' + text.replace('over = "answer"', 'over = "prompt"'), encoding="utf-8")
    rows = {row["id"]: row for row in uninterrupted.rows()}
    done = SynthJob(other).run("--url", "127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(uninterrupted.output / "rows.parquet").to_pylist()
    assert len(table) == json.loads(done.stdout)["rows"] >= 50
    for row in table:
        if row["id"] in rows:
            assert row["messages"] == rows[row["id"]]["messages"]
            provenance: dict[str, Any] = row["provenance"]
            expected = rows[row["id"]]["provenance"]
            assert dict(provenance["scores"]) == expected["scores"]
            for part in ("teacher", "prompt", "sampling"):
                given = {name: value for name, value in provenance[part].items() if value is not None}
                assert given == {name: value for name, value in expected[part].items() if value is not None}
    restored = uninterrupted.run("--url", "127.0.0.1:1")
    assert restored.returncode == 0


def test_a_judges_score_decides_and_is_asked_for_once(stand_in: str, tmp_path: Path) -> None:
    """A classifier's probability is the score; another run, without a judge to ask, gives the same rows."""
    text = """
[[prompts]]
name = "moods"
template = "{{ text }}"
seeds = "seeds.jsonl"
[[filters]]
filter = "judge"
name = "gladness"
model = "moods"
template = "{{ answer }}"
label = "glad"
min_score = 0.5
"""
    job = write_job(tmp_path, text, [{"text": each} for each in ("++++", "+---", "+++-", "----", "++++")], url=stand_in)
    done = job.run()
    assert done.returncode == 0, done.stderr
    scores = [row["provenance"]["scores"]["gladness"] for row in job.rows()]
    assert scores == pytest.approx([1.0, 0.75, 1.0])
    assert [row["reason"] for row in read_lines(job.output / "rejected.jsonl")] == ["score too low"] * 2
    first = outputs(job)
    again = job.run("--url", "127.0.0.1:1")
    assert again.returncode == 0, again.stderr
    assert outputs(job) == first


def test_a_judge_without_the_label_is_a_fault_of_the_job(stand_in: str, tmp_path: Path) -> None:
    """The error names the labels that there are."""
    text = '[[prompts]]\nname = "m"\ntemplate = "++"\n[[filters]]\nfilter = "judge"\nmodel = "moods"\n'
    text += 'template = "{{ answer }}"\nlabel = "happy"\nmin_score = 0.5\n'
    done = write_job(tmp_path, text, url=stand_in).run()
    assert done.returncode == 2
    assert "label is 'happy', and moods has glad, traurig 悲, so-so" in done.stderr


def test_refused_prompts_are_set_aside_and_asked_again_by_the_next_run(stand_in: str, tmp_path: Path) -> None:
    """One prompt that the server will not answer costs no other; a fault of the server's is tried three times."""
    text = '[[prompts]]\nname = "p"\ntemplate = "{{ orders|tojson }}\\n{{ text }}"\nseeds = "seeds.jsonl"\n'
    seeds = [
        {"orders": {}, "text": "one"},
        {"orders": {"error": ["INVALID_ARG", "not this"]}, "text": "two"},
        {"orders": {"error": ["INTERNAL", "broken"]}, "text": "three"},
        {"orders": {}, "text": "four"},
    ]
    job = write_job(tmp_path, text, seeds, url=stand_in)
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["refused"] == 2
    assert [row["messages"][-1]["content"] for row in job.rows()] == ["one", "four"]
    quarantine = read_lines(job.output / "quarantine.jsonl")
    assert [row["line"] for row in quarantine] == [2, 3]
    assert "the server refuses it: " in quarantine[0]["reason"]
    assert "not this" in quarantine[0]["reason"]
    assert "broken" in quarantine[1]["reason"]
    assert "(tried 3 times)" in quarantine[1]["reason"]
    assert json.loads(job.run().stdout)["refused"] == 2


def test_a_server_that_refuses_everything_ends_the_job(stand_in: str, tmp_path: Path) -> None:
    """A job whose every request is wrong says so, with the server's words."""
    text = """[[prompts]]\nname = "p"\ntemplate = '''{"error": ["INVALID_ARG", "never"]}\n{{ text }}'''\n"""
    job = write_job(tmp_path, text + 'seeds = "seeds.jsonl"\n', SEEDS[:3], url=stand_in)
    done = job.run()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the server refuses every request: ")
    assert "never" in done.stderr


@pytest.mark.parametrize("imposed", [True, False])
def test_a_schema_is_imposed_unless_the_job_says_otherwise(stand_in: str, tmp_path: Path, imposed: bool) -> None:
    """The request has the schema where it is imposed; the filter looks at the answer either way."""
    text = '[[prompts]]\nname = "p"\ntemplate = """{"echo": true}\nx"""\njson_schema = "s.json"\n'
    text += f"impose_schema = {str(imposed).lower()}\n"
    job = write_job(tmp_path, text + '[[filters]]\nfilter = "schema"\n', url=stand_in)
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["inputs"]}')
    assert json.loads(job.run().stdout)["rows"] == 1
    sent = json.loads(job.rows()[0]["messages"][-1]["content"])["inputs"]["sampling_parameters"]["values"][0]
    assert ("structured_outputs" in json.loads(sent)) == imposed
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["outputs"]}')
    assert json.loads(job.run().stdout)["rows"] == 0
    assert [row["reason"] for row in read_lines(job.output / "rejected.jsonl")] == ["does not fit"]


def test_a_model_that_is_not_there_is_named(stand_in: str, tmp_path: Path) -> None:
    """A misspelt model ends the job before the first request."""
    done = write_job(tmp_path, PROMPT, SEEDS, url=stand_in, model="chatt").run()
    assert done.returncode == 1
    assert "chatt" in done.stderr.splitlines()[-1]
    assert "`fathom-client models` lists those that the server has" in done.stderr


def test_an_overridden_licence_stands_in_every_row_and_in_the_card(stand_in: str, tmp_path: Path) -> None:
    """What the user took on himself is on the record wherever the data goes."""
    text = '[[prompts]]\nname = "p"\ntemplate = "{{ text }}"\nseeds = "seeds.jsonl"\n'
    job = write_job(tmp_path, text, SEEDS[:3], url=stand_in, card="---\nlicense: llama3\n---\n")
    content = job.path.read_text(encoding="utf-8")
    job.path.write_text(content.replace('revision = "r1"\n', 'revision = "r1"\noverride_licence = "llama3"\n'))
    done = job.run()
    assert done.returncode == 0, done.stderr
    for row in job.rows():
        teacher = row["provenance"]["teacher"]
        assert (teacher["licence"], teacher["training"], teacher["override"]) == ("llama3", "forbidden", "llama3")
    card = (job.output / "README.md").read_text(encoding="utf-8")
    assert '| **taken on by the user** | `override_licence = "llama3"` |' in card
    assert "training on its answers is forbidden" in card
