"""A job whose teacher and judge are a real LLM behind fathom-serve: sampled, structured, judged, killed, resumed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from tests.serving import FathomServe
from tests.synth.synth_job import SynthJob, read_lines, write_job

MODELS = Path("examples/models").resolve()
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
JOB = """
[sampling]
samples = 3
temperature = 1.0
max_tokens = 40
[[prompts]]
name = "sums"
template = "What is {{ a }} + {{ b }}?"
seeds = "seeds.jsonl"
[[prompts]]
name = "people"
template = "Write JSON: name is {{ name }}, age is {{ a }}."
seeds = "people.csv"
json_schema = "person.json"
[[filters]]
filter = "schema"
[[filters]]
filter = "length"
[[filters]]
filter = "logprob"
min_mean = -1.5
[[filters]]
filter = "judge"
model = "small"
template = "Repeat: {{ answer }}"
verdicts = { yes = 1.0, no = 0.0 }
min_score = 0.01
[[filters]]
filter = "agreement"
min_share = 0.5
"""
SEEDS = [{"a": number, "b": 99 - number} for number in range(1, 61)]
FILES = ("rows.jsonl", "rejected.jsonl", "quarantine.jsonl")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a deployment of the small example model in int8."""
    folder = tmp_path_factory.mktemp("synth-llm")
    command = [sys.executable, "-m", "fathom_export.cli", str(MODELS / "small"), "--name", "small"]
    command += ["--task", "generate", "--precision", "int8", "--quality", "off", "--repository", str(folder / "models")]
    export = subprocess.run(command, capture_output=True, text=True, check=False)
    assert export.returncode == 0, export.stderr
    with FathomServe(folder / "models", folder / "serve") as server:
        yield server.url


def job_at(folder: Path, url: str) -> SynthJob:
    """The job with all its files, and the example model's own card."""
    job = write_job(folder, JOB, SEEDS, url=url, model="small")
    content = job.path.read_text(encoding="utf-8").replace(
        'card = "README.md"\nrevision = "r1"', f'card = "{MODELS}/small"'
    )
    job.path.write_text(content, encoding="utf-8")
    (folder / "people.csv").write_text("name,a\n" + "".join(f"{name},{age}\n" for age, name in enumerate(NAMES, 20)))
    (folder / "person.json").write_text(json.dumps(SCHEMA))
    return job


NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo")


def test_an_llm_writes_the_same_data_killed_or_not(url: str, tmp_path: Path) -> None:
    """Sampled answers depend on their seeds alone: killed twice, the job ends with the bytes of one run."""
    whole = job_at(tmp_path / "whole", url)
    done = whole.run()
    assert done.returncode == 0, done.stderr
    total = len(SEEDS) + len(NAMES)
    summary = json.loads(done.stdout)
    assert (summary["answers"], summary["refused"]) == (3 * total, 0)
    assert len(set(whole.answered())) == total
    job = job_at(tmp_path / "killed", url)
    for answered in (4, 30):
        process = job.start()
        deadline = time.monotonic() + 60
        while len(job.answered()) < answered:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert answered <= len(job.answered()) < total
    assert job.run().returncode == 0
    assert len(job.answered()) == len(set(job.answered())) == total
    for name in FILES:
        assert (job.output / name).read_bytes() == (whole.output / name).read_bytes(), name

    rows = whole.rows()
    assert rows
    assert {row["provenance"]["prompt"]["name"] for row in rows} == {"sums", "people"}
    for row in rows:
        scores = row["provenance"]["scores"]
        assert -1.5 <= scores["mean_logprob"] <= 0
        assert 0.01 <= scores["judge"] <= 1
        assert scores["agreement"] >= 0.5
        if row["provenance"]["prompt"]["name"] == "people":
            jsonschema.validate(json.loads(row["messages"][-1]["content"]), SCHEMA)
    rejected = read_lines(whole.output / "rejected.jsonl")
    assert len(rows) + len(rejected) == 3 * total
    assert "few agree" in {row["reason"] for row in rejected}
