"""A job's file: what is wrong with it is said in one line with file, key and remedy."""

from pathlib import Path

import pytest
from tests.synth.synth_job import write_job

from fathom_synth.errors import JobError
from fathom_synth.job_file import read_job

PROMPT = '[[prompts]]\nname = "p"\ntemplate = "{{ a }}"\n'

FAULTS = [
    ("[[prompts]]\nname = 'p'\ntemplat = 'x'\n", "prompts[0].templat is not a known key; did you mean 'template'?"),
    ("[[prompts]]\nname = 'p'\n", "prompts[0] needs exactly one of template and template_file"),
    ("[[prompts]]\nname = 'p'\ntemplate = 'x'\ntemplate_file = 'y'\n", "needs exactly one of template and template_fi"),
    (PROMPT + "impose_schema = false\n", "prompts[0] has impose_schema, but no json_schema; give one"),
    ("[[prompts]]\ntemplate = 'x'\n", "prompts[0].name is missing; give it"),
    ("", "prompts is missing; give it"),
    (PROMPT + PROMPT, "prompts[1].name is 'p', as another's; give each its own"),
    (PROMPT + "seeds = 3\n", "prompts[0].seeds is 3; input is not a valid path"),
    (PROMPT + "[sampling]\ntemperature = -1\n", "sampling.temperature is -1; input should be greater than or equal"),
    (PROMPT + "[sampling]\nsamples = 4\ntemperature = 0\n", "sampling samples is 4, but at temperature 0 all are the"),
    (PROMPT + "[sampling]\nsamples = 'four'\n", "sampling.samples is 'four'; input should be a valid integer"),
    (PROMPT + "[sampling]\ntop_p = nan\n", "sampling.top_p is nan; input should be a finite number"),
    (PROMPT + "[[filters]]\nfilter = 'lenght'\n", "filters[0].filter is 'lenght'; valid: 'schema', 'length', 'heuri"),
    (PROMPT + "[[filters]]\n", "filters[0].filter is missing; it says which filter it is"),
    (PROMPT + "[[filters]]\nfilter = 'length'\nmax_tokns = 3\n", "filters[0].max_tokns is not a known key; did you m"),
    (PROMPT + "[[filters]]\nfilter = 'length'\n" * 2, "filters has 'length' twice; give it once"),
    (PROMPT + "[[filters]]\nfilter = 'logprob'\n", "filters[0] needs min_mean, min_token or both"),
    (PROMPT + "[[filters]]\nfilter = 'near_duplicates'\nthreshold = 1.5\n", "filters[0].threshold is 1.5; input shoul"),
    (PROMPT + "[[filters]]\nfilter = 'judge'\nmodel = 'm'\ntemplate = 't'\nmin_score = 1\n",
     "filters[0] needs exactly one of verdicts (an LLM judges) and label (a classifier does)"),
    (PROMPT + "[[filters]]\nfilter = 'agreement'\n", "filters has 'agreement', but no prompt has several samples to"),
    (PROMPT + "[judges]\n", "judges is not a known key; valid keys: output, format, seed, server, teacher"),
    ("[[prompts]\n", "is not TOML (Expected ']]' at the end of an array declaration"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_a_wrong_job_is_refused_by_file_key_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    """Whatever is wrong, the first line says where it stands and what would do."""
    job = write_job(tmp_path, text)
    with pytest.raises(JobError) as caught:
        read_job(job.path)
    assert str(caught.value).startswith(f"{job.path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder and one without end are told apart."""
    with pytest.raises(JobError, match="cannot be read"):
        read_job(tmp_path / "none.toml")
    with pytest.raises(JobError, match="cannot be read"):
        read_job(tmp_path)
    with pytest.raises(JobError, match="is larger than"):
        read_job(Path("/dev/zero"))


def test_paths_are_relative_to_the_job_and_flags_win(tmp_path: Path) -> None:
    """Files are found from the job's folder; --url and --output stand in for its own."""
    job = write_job(tmp_path / "deep", PROMPT + 'seeds = "../seeds.csv"\n')
    read = read_job(job.path)
    assert read.prompts[0].seeds == tmp_path / "seeds.csv"
    assert read.output == tmp_path / "deep" / "out"
    other = read_job(job.path, url="there:1", output=tmp_path / "else")
    assert other.server.url == "there:1"
    assert other.output == tmp_path / "else"
    assert other.teacher == read.teacher
