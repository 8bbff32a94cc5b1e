"""What the pages on security and operations promise is held by the tests that they name."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from tests.deploy.chart.rendering import render
from tests.deploy.test_chart_linter import EXCEPTIONS

from fathom_server.cli import build_parser
from fathom_server.launcher.protection import ADMIN_HEADER, ADMIN_KEY_VARIABLE, GRPC_PREFIX

PAGES = [Path("docs/security.md"), Path("docs/operations.md")]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@cache
def held_by(file: str) -> frozenset[str]:
    """Names of the tests of a file, those within classes, too."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    """Each named file exists and holds the test of that name."""
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    assert len(named) > 8
    missing = [
        f"{file}::{test}" for file, test in named if not Path(file).is_file() or (test and test not in held_by(file))
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_promise_has_its_test(page: Path) -> None:
    """In a table with a column of tests no row's is empty."""
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    in_tests, promises = False, 0
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if "test" in cells or "check" in cells or "who" in cells or "when" in cells:
            in_tests = cells[-1] == "test"
        elif in_tests and not set(cells[-1]) <= set("- "):
            assert NAMED.search(cells[-1]), row
            promises += 1
    assert promises > 8


def test_every_exception_of_the_linter_is_explained() -> None:
    """The page's table has the exceptions of the chart's scan, no more and no fewer."""
    text = Path("docs/security.md").read_text(encoding="utf-8")
    assert set(re.findall(r"CKV_K8S_\d+", text)) == EXCEPTIONS.keys()


def test_flags_and_headers_are_the_programs_own() -> None:
    """The page's flags are those of fathom-serve, the key's names those that the launcher gives to Triton."""
    text = Path("docs/security.md").read_text(encoding="utf-8")
    flags = {flag for action in build_parser()._actions for flag in action.option_strings}
    own = set(re.findall(r"--(?:tls|admin|host)[\w-]*", text))
    assert own <= flags
    assert {"--tls-cert", "--tls-key", "--tls-client-ca", "--admin-key-file"} <= own
    assert all(name in text for name in (ADMIN_HEADER, GRPC_PREFIX + ADMIN_HEADER, ADMIN_KEY_VARIABLE))


def test_admin_key_is_a_file_of_a_secret() -> None:
    """The chart mounts the secret that is named, and no other by default; compose reads the file of its secret."""
    server = render({"server": {"adminKeySecret": {"name": "admin", "key": "of-triton"}}}).server()["spec"]
    [mount] = [mount for mount in server["containers"][0]["volumeMounts"] if mount["name"] == "admin-key"]
    assert f"--admin-key-file={mount['mountPath']}/of-triton" in server["containers"][0]["command"]
    assert {"name": "admin-key", "secret": {"secretName": "admin"}} in server["volumes"]
    plain = render().server()["spec"]
    assert not any("admin" in word for word in plain["containers"][0]["command"])
    assert "admin-key" not in {volume["name"] for volume in plain["volumes"]}
    compose = yaml.safe_load(Path("docker-compose.yml").read_text(encoding="utf-8"))
    command = str(compose["services"]["server"]["command"])
    assert "--admin-key-file=/run/secrets/admin_key" in command
    assert "admin_key" in compose["services"]["server"]["secrets"]
    assert compose["secrets"]["admin_key"].keys() == {"file"}
