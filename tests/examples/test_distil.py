"""The example that distils: its seeds, its student, and that the docs say what was measured."""

import json
import sys
from pathlib import Path

import pytest
from benchmarks.page import marks
from examples.distil.questions import SHARES, write_questions
from examples.distil.report import read_lines, render, right_answers, share
from examples.distil.student import read_samples, train_student

from fathom_synth.job_file import read_job
from fathom_synth.prompts import read_schema

ROOT = Path(__file__).resolve().parents[2]
DISTIL = ROOT / "examples" / "distil"
RESULT = json.loads((DISTIL / "results.json").read_text(encoding="utf-8"))
sys.path.insert(0, str(ROOT / "examples" / "models"))

from fathom_examples.corpus import held_out_samples  # noqa: E402


def test_the_seeds_are_repeatable_and_hold_no_held_out_question(tmp_path: Path) -> None:
    """The same number and seed give the same files, of every task, and no question of the examination."""
    for name in ("a", "b"):
        write_questions(tmp_path / name, 700)
    rows = []
    for file in ("questions.jsonl", "objects.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        rows += read_lines(tmp_path / "a" / file)
    assert len(rows) == 700
    assert {row["task"] for row in rows} == set(SHARES)
    known = {(row["task"], row["answer"]) for row in rows if row["task"] == "arithmetic"}
    assert known.isdisjoint({(each.task, each.answer) for each in held_out_samples() if each.task == "arithmetic"})


def test_the_job_is_valid_and_its_schema_takes_every_true_answer(tmp_path: Path) -> None:
    """The committed job reads, and the schema that answers must fit is no narrower than the task."""
    import jsonschema

    job = read_job(DISTIL / "job.toml")
    assert [each.filter for each in job.filters][-2:] == ["agreement", "duplicates"]
    schema_file = job.prompts[1].json_schema
    assert schema_file is not None
    schema = read_schema(schema_file)
    write_questions(tmp_path, 700)
    for row in read_lines(tmp_path / "objects.jsonl"):
        jsonschema.validate(json.loads(row["answer"]), schema)


def test_a_student_learns_the_rows_it_is_given(tmp_path: Path) -> None:
    """After some steps over a few rows the checkpoint answers them as they say, which it did not before."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": f"Call {n}."}, {"role": "assistant", "content": said}]}
        for n, said in enumerate(("lamp 7", "ship 31", "apple 5"))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [each.answer for each in read_samples(tmp_path / "rows.jsonl")] == ["lamp 7", "ship 31", "apple 5"]
    threads = torch.get_num_threads()
    try:
        train_student(tmp_path / "rows.jsonl", tmp_path / "student", 40, 60, 5e-3, 0)
    finally:
        torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")

    def answers(folder: Path) -> list[str]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        said = []
        for row in rows:
            inputs = tokenizer.apply_chat_template(
                row["messages"][:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
            said.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        return said

    wanted = [row["messages"][-1]["content"] for row in rows]
    assert answers(ROOT / "examples" / "models" / "small") != wanted
    assert answers(tmp_path / "student") == wanted


def test_right_answers_are_counted_by_the_examples_checkers() -> None:
    """A row is right if its answer is the seed's, JSON parsed."""
    truth = {
        ("p", 1): {"task": "json", "question": "q", "answer": '{"a": 1, "b": 2}', "checker": "json"},
        ("p", 2): {"task": "sums", "question": "r", "answer": "3", "checker": "text"},
    }
    said = (("q", '{"b": 2, "a": 1}'), ("r", "4"), ("r", "3"))
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in said]
    marks_by_task = right_answers(rows, truth)
    assert marks_by_task == {"json": [True], "sums": [False, True]}
    assert share(marks_by_task) == pytest.approx(2 / 3)


def test_the_docs_say_what_was_measured() -> None:
    """The tables in docs/synth.md are those of results.json, and what passed the filters taught the student."""
    begin, end = marks("distil")
    page = (ROOT / "docs" / "synth.md").read_text(encoding="utf-8")
    assert page.split(begin)[1].split(end)[0].strip() == render(RESULT).strip()
    accuracy = {name: figures["exact_match"] for name, figures in RESULT["accuracy"].items()}
    assert accuracy["filtered"] > accuracy["before"]
