"""What a run shows while it goes on."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.client.terminal import Terminal
from tests.loadtest.command import write_prompts

if TYPE_CHECKING:
    from conftest import Triton


def test_a_terminal_shows_a_row_for_each_stage_as_it_goes(triton: "Triton", tmp_path: Path) -> None:
    """Warm-up and stages have rows with their load, what ended, failed and is late; the report's table comes last."""
    prompts = write_prompts(tmp_path, "hello there", "fail now")
    terminal = Terminal(
        sys.executable, "-m", "fathom_loadtest", "run", "--url", triton.url, "--model", "paced",
        "--prompts", str(prompts), "--output-tokens", "8", "--rate", "20,60", "--requests", "30",
        "--output", str(tmp_path / "out"),
        TERM="xterm", COLUMNS="120", LINES="40",
    )  # fmt: skip
    try:
        shown = terminal.expect(r"report\.html")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    heading = next(line for line in plain.splitlines() if "load" in line and "errors" in line)
    assert heading.split() == [
        "load", "time", "reqs", "open", "errors", "req/s", "tok/s", "TTFT", "ms", "latency", "ms", "late",
    ]  # fmt: skip
    rows = [line.split() for line in plain.splitlines() if re.match(r"\s*(warm-up|stage) \d", line)]
    assert {(row[0], row[1]) for row in rows} == {("warm-up", "1"), ("stage", "1"), ("warm-up", "2"), ("stage", "2")}
    finished = [row for row in rows if row[:2] == ["stage", "1"]][-1]
    assert finished[2:4] == ["20", "req/s"]
    assert finished[6:9] == ["30/30", "0", "15"], "requests that ended, are under way, failed"
