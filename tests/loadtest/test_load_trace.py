"""Recorded traces are read in both forms, replayed in order, and refused by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from fathom_loadtest.content.synthetic import WordCosts
from fathom_loadtest.content.trace_prompts import TracePrompts
from fathom_loadtest.errors import TraceError
from fathom_loadtest.load.trace import Trace, TraceEntry, load_trace
from fathom_loadtest.scenario import TraceReplay

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:48.1805900,396,0
2024-05-10 00:00:00.009930+00:00,879,55
"""


def trace(folder: Path, content: str | bytes, **settings: Any) -> Trace:
    """Read a trace."""
    path = folder / "trace"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_trace(TraceReplay(path, **settings))


def mooncake(*entries: tuple[float, int, int, list[int]]) -> str:
    """Write entries in Mooncake's form."""
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return "".join(json.dumps(dict(zip(names, entry, strict=True))) + "\n" for entry in entries)


def test_mooncakes_form_is_replayed_in_order(tmp_path: Path) -> None:
    """Entries are sorted, and their times begin with the first and go as much faster as asked."""
    text = mooncake((5000, 600, 7, [1, 2]), (3000, 90, 3, []), (11_000, 5, 1, [3]))
    assert trace(tmp_path, "\n" + text[:0] + text, speedup=4).entries == (
        TraceEntry(0.0, 90, 3),
        TraceEntry(0.5, 600, 7, (1, 2)),
        TraceEntry(2.0, 5, 1, (3,)),
    )


def test_azures_form_is_replayed(tmp_path: Path) -> None:
    """Seven digits of a second and time zones are read; an answer of no tokens is one of one token."""
    entries = trace(tmp_path, "\ufeff" + AZURE.replace("\n", "\r\n")).entries
    assert [(entry.input_tokens, entry.output_tokens) for entry in entries] == [(374, 44), (396, 1), (879, 55)]
    assert [entry.due_s for entry in entries[:2]] == [0.0, pytest.approx(1.5)]
    assert entries[2].due_s == pytest.approx(176 * 86400 - (18 * 3600 + 15 * 60 + 46.68059) + 0.00993)


def test_a_replay_can_be_cut(tmp_path: Path) -> None:
    """By requests or by seconds of the replay, and the mean rate is the replay's."""
    text = mooncake(*((1000 * second, 5, 5, []) for second in range(10)))
    assert len(trace(tmp_path, text, requests=4).entries) == 4
    assert len(trace(tmp_path, text, duration_s=1.5, speedup=2).entries) == 3
    assert trace(tmp_path, text, speedup=2).rate == pytest.approx(10 / 4.5)
    assert trace(tmp_path, text, requests=1).rate is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "holds no request|has no column"),
        ("time,prompt,answer\n1,2,3\n", r":1: has no column TIMESTAMP; it must be Azure's CSV"),
        (AZURE + "yesterday,1,2\n", r":5: TIMESTAMP is 'yesterday'; it must be a date and time"),
        (AZURE + "2024-05-10 00:00:00,many,2\n", r":5: ContextTokens is 'many'; it must be a whole number"),
        (AZURE + "2024-05-10 00:00:00,1,-2\n", r":5: GeneratedTokens is -2; it must be a whole number"),
        (AZURE + "2024-05-10 00:00:00,1\n", r":5: has 2 columns; the header has 3"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no request"),
        (mooncake((0, 5, 5, [])) + "\n{oops\n", r":3: is not JSON"),
        (mooncake((0, 5, 5, [])) + "[]\n", r":2: is no JSON object"),
        ('{"timestamp": "0", "input_length": 5, "output_length": 5}\n', r":1: timestamp is '0'; it must be a number"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 5}\n', r":1: timestamp is nan; it must be a number"),
        ('{"timestamp": 0, "output_length": 5}\n', r":1: input_length is None; it must be a whole number"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1e9}\n', r":1: output_length is 1000000000.0"),
        (mooncake((0, 5, 5, [])).replace("[]", '["a"]'), r":1: hash_ids is \['a'\]; it must be a list"),
        (b"{\xff", "is not UTF-8"),
    ],
)
def test_a_malformed_trace_is_refused_by_file_and_line(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    """The message names the file, the line, the field and its value."""
    with pytest.raises(TraceError, match=complaint) as caught:
        trace(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / 'trace'}:")


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    """The message names the path."""
    with pytest.raises(TraceError, match="absent: cannot be read"):
        load_trace(TraceReplay(tmp_path / "absent"))


def test_prompts_share_the_blocks_that_the_trace_shares() -> None:
    """The same ids give the same beginning, other ids another one, and every prompt has the recorded length."""
    entries = (
        TraceEntry(0, 100, 5, (7, 8, 9)),
        TraceEntry(1, 100, 5, (7, 8, 10)),
        TraceEntry(2, 70, 5, (7, 8)),
        TraceEntry(3, 100, 5, (11,)),
        TraceEntry(4, 50, 6),
        TraceEntry(5, 50, 6),
        TraceEntry(6, 1, 1, (7,)),
    )
    prompts = TracePrompts(WordCosts(1, (1.0,) * 32), Trace(entries, 32), seed=1)
    words = [(prompts.prompt("stage 1", index).text or "").split() for index in range(len(entries))]
    assert [len(each) for each in words] == [entry.input_tokens for entry in entries]
    assert words[0][:65] == words[1][:65] == words[2][:65]
    assert words[0][65:97] != words[1][65:97]
    assert words[0][:33] != words[3][:33]
    assert words[4] != words[5]
    assert prompts.prompt("stage 1", 4).max_tokens == 6
    assert prompts.prompt("stage 9", 0) == prompts.prompt("stage 1", 0)
