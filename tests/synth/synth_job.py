"""A job for a test: its files in a folder, and the command that runs it as a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CARD = "---\nlicense: apache-2.0\n---\n# a teacher\n"


@dataclass(frozen=True, slots=True)
class SynthJob:
    """A job's file with what it reads beside it."""

    path: Path

    @property
    def output(self) -> Path:
        """Where it writes."""
        return self.path.parent / "out"

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs it."""
        return [sys.executable, "-m", "fathom_synth", "run", str(self.path), *arguments]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Run it without waiting."""
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=120, **options
        )

    def rows(self) -> list[dict[str, Any]]:
        """The rows that passed."""
        return read_lines(self.output / "rows.jsonl")

    def answered(self) -> list[str]:
        """The keys in the journal of answers, a torn last line apart."""
        path = self.output / "answers.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [json.loads(line)["key"] for line in lines]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_job(
    folder: Path,
    text: str,
    seeds: Sequence[Mapping[str, Any] | str] = (),
    *,
    url: str = "127.0.0.1:1",
    card: str = CARD,
    model: str = "chat",
) -> SynthJob:
    """Write a job whose teacher is served at ``url``; ``text`` has prompts and filters, a text in seeds is a line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(card, encoding="utf-8")
    lines = [row if isinstance(row, str) else json.dumps(row) for row in seeds]
    (folder / "seeds.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    head = f'output = "out"\n[server]\nurl = "{url}"\nin_flight = 8\nwait_s = 60\n'
    head += f'[teacher]\nmodel = "{model}"\ncard = "README.md"\nrevision = "r1"\n'
    (folder / "job.toml").write_text(head + text, encoding="utf-8")
    return SynthJob(folder / "job.toml")
