"""The client's documents: snippets run as they stand, against a real server, and lists are complete."""

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.client.certificates import issue
from tests.serving import FathomServe

from fathom_client import Client, GenerateOptions, errors
from fathom_client.cli import build_parser

MANUAL = Path("docs/client.md").resolve()
README = Path("client/README.md").resolve()
PAGES = [MANUAL, README]
STAND_INS = Path("tests/client/repository").resolve()
"""A reranker and a classifier, which the deployment of this folder's other tests has not."""

ADDRESS = "localhost:8001"
"""Where the documents say that the server is."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block: its language, its text, and the line on which the text begins."""

    page: Path
    language: str
    text: str
    line: int

    @property
    def needs_stand_ins(self) -> bool:
        """Whether it asks a reranker or a classifier."""
        return bool(re.search(r"reranker|moods", self.text))


def snippets(page: Path, language: str) -> list[Snippet]:
    """A page's fenced blocks of a language, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(page, language, found[1], text[: found.start(1)].count("\n") + 1)
        for found in re.finditer(rf"(?ms)^```{language}\n(.*?)^```$", text)
    ]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of the reranker and the classifier."""
    with FathomServe(STAND_INS, tmp_path_factory.mktemp("stand-ins")) as server:
        yield server.url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the documents name."""
    issue(tmp_path).client_key.rename(tmp_path / "client-key.pem")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_snippets_run(page: Path, folder: Path, server: FathomServe, stand_ins: str) -> None:
    """The Python of a page runs from top to bottom."""
    namespace: dict[str, Any] = {}
    with Client(stand_ins) as other:
        for snippet in snippets(page, "python"):
            mine = namespace.get("client")
            if snippet.needs_stand_ins:
                namespace["client"] = other
            source = "\n" * (snippet.line - 1) + snippet.text.replace(ADDRESS, server.url)
            code = compile(source, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            left = eval(code, namespace)  # noqa: S307 # our own documents
            if inspect.iscoroutine(left):
                asyncio.run(left)
            if snippet.needs_stand_ins:
                namespace["client"] = mine
    for value in namespace.values():
        if isinstance(value, Client):
            value.close()


SHELL = [each for page in PAGES for each in snippets(page, "sh")]


@pytest.mark.parametrize("snippet", SHELL, ids=lambda each: f"{each.page.name}:{each.line}")
def test_shell_snippets_run(snippet: Snippet, folder: Path, server: FathomServe, stand_ins: str) -> None:
    """Every command of the pages succeeds without a complaint, and no line of its results is an error."""
    variables = os.environ | {
        "FATHOM_URL": stand_ins if snippet.needs_stand_ins else server.url,
        "FATHOM_HISTORY": "",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", "set -eu\n" + snippet.text],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    for file in folder.glob("*.jsonl"):
        assert file.read_text(encoding="utf-8").strip()
        assert '"error"' not in file.read_text(encoding="utf-8")


def test_manual_draws_the_tree_of_errors() -> None:
    """The tree of the page is that of the module."""
    tree = (errors.__doc__ or "").partition("\n\n")[2].strip()
    assert tree in MANUAL.read_text(encoding="utf-8")


def test_manual_lists_every_option() -> None:
    """What ``generate`` and ``chat`` take stands in the table of options, and nothing else."""
    table = MANUAL.read_text(encoding="utf-8").partition("| for | options |")[2].partition("\n\n")[0]
    rows = [row.split("|")[2] for row in table.splitlines() if row.count("|") > 2]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(GenerateOptions.__annotations__)


def test_manual_lists_every_method() -> None:
    """Each public method of ``Client`` is on the page."""
    text = MANUAL.read_text(encoding="utf-8")
    methods = [name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if not re.search(rf"\b{name}\b", text)] == []
    keywords = list(inspect.signature(Client.__init__).parameters)[2:]
    assert [name for name in keywords if f"`{name}`" not in text] == []


def test_manual_lists_every_command_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command stands in the table of commands, each variable that ``--help`` names on the page."""
    with suppress(SystemExit):
        build_parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    text = MANUAL.read_text(encoding="utf-8")
    table = text.partition("| command | does |")[2].partition("\n\n")[0]
    listed = shown.partition("COMMAND\n")[2].partition("\n\n")[0]
    commands = re.findall(r"(?m)^    (\w+)", listed)
    assert len(commands) > 10
    assert [name for name in commands if f"`{name}`" not in table] == []
    variables = set(re.findall(r"FATHOM_\w+", shown))
    assert variables
    assert [name for name in variables if f"`{name}`" not in text] == []
