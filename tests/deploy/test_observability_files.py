"""Rules, dashboards and what mounts them are made from the code, are valid, and agree with each other."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from deploy.observability import objectives, rules
from deploy.observability.__main__ import FOLDER, generated, main
from deploy.observability.expressions import GATEWAY_JOB, SERVER_JOB
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard, RowPanel
from tests.deploy.observability.questions import (
    DASHBOARDS,
    dashboard,
    panel_questions,
    rule_groups,
    rule_questions,
    variable_questions,
)

from fathom_client import metric_names
from fathom_server.gateway.settings import DEFAULT_PORT as GATEWAY_PORT
from fathom_server.launcher.settings import DEFAULT_METRICS_PORT

PROMTOOL = shutil.which("promtool")
QUESTIONS = [*rule_questions(), *panel_questions(), *variable_questions()]


def read_yaml(*path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FOLDER.joinpath(*path).read_text(encoding="utf-8"))
    return document


def test_rules_and_dashboards_are_up_to_date() -> None:
    """The files in the repository are what the command writes, and there are no others."""
    wanted = generated(FOLDER)
    for file, text in wanted.items():
        assert file.read_text(encoding="utf-8") == text, f"{file.name}: run python -m deploy.observability"
    assert set(DASHBOARDS) <= wanted.keys()


def test_the_command_writes_what_it_then_finds_up_to_date(tmp_path: Path) -> None:
    """With --check it exits 1 before, 0 after, and writes nothing itself."""
    command = [sys.executable, "-m", "deploy.observability", "--folder", str(tmp_path)]
    before = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert before.returncode == 1
    assert "fathom.yml: not up to date; run python -m deploy.observability" in before.stdout
    assert not list(tmp_path.iterdir())
    subprocess.run(command, check=True, capture_output=True)
    assert subprocess.run([*command, "--check"], check=False, capture_output=True).returncode == 0


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the way is an error of one line, and exit status 2."""
    (tmp_path / "rules").write_text("in the way")
    assert main(["--folder", str(tmp_path)]) == 2
    assert re.fullmatch(
        r"error: \S+fathom.yml cannot be written \(.+\); name another --folder\n", capsys.readouterr().err
    )


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.where)
def test_every_expression_is_promql(question: Any) -> None:
    """A kept parser of PromQL takes it, and it names at least one series."""
    assert question.asked()


def test_the_parser_refuses_what_is_no_promql() -> None:
    """The check above can fail."""
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum(rate(up[5m])")


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboards_have_the_fields_that_grafana_knows(file: Path) -> None:
    """Read into Grafana's own types and written again, nothing is lost: no field is unknown, none has another type."""
    document = dashboard(file)
    again = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))
    read = Dashboard.from_json(document).panels or []
    assert [type(each) is RowPanel for each in read] == [each["type"] == "row" for each in document["panels"]]
    for panel in [*document["panels"], *again["panels"]]:
        panel.pop("id")
    assert again == document


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_stand_beside_each_other(file: Path) -> None:
    """No panel lies on another or beyond the 24 columns, each has its own id, a title, a description and a question."""
    panels = dashboard(file)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(column < 24 for column, _ in cells)
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"]
            assert panel["targets"]


def test_variables_are_defined_where_they_are_used() -> None:
    """Every $name of a dashboard is one of its variables, or Grafana's own; each variable is used."""
    for file in DASHBOARDS:
        document = dashboard(file)
        defined = {variable["name"] for variable in document["templating"]["list"]}
        text = json.dumps(document)
        used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"}
        assert used == defined - ({"gateway"} - used), file.stem


def test_dashboards_are_told_apart() -> None:
    """Each has its own uid and title, and a tag by which the others' links find it."""
    documents = [dashboard(file) for file in DASHBOARDS]
    assert {document["uid"] for document in documents} == {f"fathom-{file.stem}" for file in DASHBOARDS}
    assert len({document["title"] for document in documents}) == len(documents) == 4
    assert all("fathom" in document["tags"] for document in documents)


def test_prometheus_scrapes_the_ports_on_which_the_programs_listen() -> None:
    """The jobs are those of the rules; ports are the code's own; the rule file is found."""
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in read_yaml("prometheus.yml")["scrape_configs"]}
    assert {name: job["port"] for name, job in jobs.items()} == {
        SERVER_JOB: DEFAULT_METRICS_PORT,
        GATEWAY_JOB: GATEWAY_PORT,
    }
    (pattern,) = read_yaml("prometheus.yml")["rule_files"]
    assert [file.name for file in FOLDER.glob(pattern)] == ["fathom.yml"]


def test_grafana_is_given_the_folder_and_the_data_source_that_there_are() -> None:
    """Provisioning names a folder of dashboards and one Prometheus, which the dashboards' variable can choose."""
    (provider,) = read_yaml("grafana", "provisioning", "dashboards", "fathom.yml")["providers"]
    assert Path(provider["options"]["path"]).name == DASHBOARDS[0].parent.name
    (source,) = read_yaml("grafana", "provisioning", "datasources", "prometheus.yml")["datasources"]
    for file in DASHBOARDS:
        (variable,) = [each for each in dashboard(file)["templating"]["list"] if each["type"] == "datasource"]
        assert variable["query"] == source["type"] == "prometheus"


def test_compose_mounts_what_there_is_where_it_is_looked_for() -> None:
    """The profile observability gives Prometheus and Grafana these files, at the places that they name."""
    services = yaml.safe_load(Path("docker-compose.yml").read_text(encoding="utf-8"))["services"]
    mounts = {
        target: Path(source)
        for name in ("prometheus", "grafana")
        for source, target, *_ in (each.split(":") for each in services[name]["volumes"])
        if source.startswith(".")
    }
    (provider,) = read_yaml("grafana", "provisioning", "dashboards", "fathom.yml")["providers"]
    assert mounts[provider["options"]["path"]].resolve() == DASHBOARDS[0].parent
    assert mounts["/etc/grafana/provisioning"].resolve() == FOLDER / "grafana" / "provisioning"
    assert mounts["/etc/prometheus/prometheus.yml"].resolve() == FOLDER / "prometheus.yml"
    assert mounts["/etc/prometheus/rules"].resolve() == FOLDER / "rules"
    (source,) = read_yaml("grafana", "provisioning", "datasources", "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    asked = {
        name for job in read_yaml("prometheus.yml")["scrape_configs"] for name in job["dns_sd_configs"][0]["names"]
    }
    assert asked <= services.keys()


def test_the_objective_is_a_bucket_of_the_histogram() -> None:
    """A bound between two buckets would match no series; a whole one is written otherwise by Prometheus 3."""
    assert objectives.FIRST_TOKEN_WITHIN_S in metric_names.BUCKET_BOUNDS_S
    assert objectives.FIRST_TOKEN_WITHIN_S % 1 != 0


def test_burns_can_happen() -> None:
    """No limit is a share above one, and every window that an alert looks at is recorded."""
    for burn in objectives.BURNS:
        assert burn.times * (1 - objectives.ANSWERED_SHARE) < 1
        assert burn.times * (1 - objectives.FIRST_TOKEN_SHARE) < 1
        assert {burn.long, burn.short} <= set(objectives.WINDOWS)
    assert len(objectives.WINDOWS) == 2 * len(objectives.BURNS)


def test_every_alert_is_explained() -> None:
    """docs/observability.md has a section for each alert, and no section for one that there is not."""
    manual = Path(rules.MANUAL).read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Fathom\w+)$", manual, re.MULTILINE)) == {alert.name for alert in rules.alerts()}


def test_every_alert_has_a_test() -> None:
    """The file for promtool lets each alert fire at least once, so a rule that can't fire is found."""
    cases = read_yaml("rules_test.yml")["tests"]
    fired = {each["alertname"] for case in cases for each in case.get("alert_rule_test", []) if each.get("exp_alerts")}
    assert fired == {alert.name for alert in rules.alerts()}
    names = {rule["alert"] for group in rule_groups() for rule in group["rules"] if "alert" in rule}
    assert names == fired


@pytest.mark.prometheus
@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on the PATH (Debian trixie: apt-get install prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules/fathom.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    """Prometheus's own tool takes rules and configuration, and each alert fires when and only when it should."""
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
