"""Every question that rules and dashboards ask of Prometheus, and what they name."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

FOLDER = Path(__file__).parents[3] / "deploy" / "observability"
DASHBOARDS = tuple(sorted((FOLDER / "grafana" / "dashboards").glob("*.json")))
RULES = FOLDER / "rules" / "fathom.yml"

GRAFANA = {"$__rate_interval": "5m", "$target": "4"}
"""What Grafana puts in the place of variables that are no labels' values."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A series that a question names: its matchers, and labels that must tell its series apart."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    grouped_by: frozenset[str]


@dataclass(frozen=True, slots=True)
class Question:
    """One expression, where it stands, and the labels that a legend or an annotation shows."""

    where: str
    expression: str
    shown: frozenset[str] = frozenset()

    @property
    def promql(self) -> str:
        """The expression as Prometheus gets it, with every choice of Grafana's variables."""
        text = self.expression
        for name, value in GRAFANA.items():
            text = text.replace(name, value)
        return re.sub(r'=~"\$\w+"', '=~".+"', text)

    def asked(self) -> list[Asked]:
        """The series that it names."""
        return list(_asked(promql_parser.parse(self.promql), frozenset()))


def rule_groups() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return groups


def rule_questions() -> list[Question]:
    found = []
    for group in rule_groups():
        for rule in group["rules"]:
            texts = " ".join(rule.get("annotations", {}).values())
            shown = frozenset(re.findall(r"\$labels\.(\w+)", texts))
            found.append(Question(rule.get("alert", rule.get("record")), rule["expr"], shown))
    return found


def recorded() -> set[str]:
    """Names that the rules record."""
    return {rule["record"] for group in rule_groups() for rule in group["rules"] if "record" in rule}


def dashboard(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def panel_questions() -> list[Question]:
    found = []
    for file in DASHBOARDS:
        for panel in dashboard(file)["panels"]:
            for target in panel.get("targets", []):
                shown = frozenset(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
                found.append(Question(f"{file.stem}: {panel['title']}", target["expr"], shown))
    return found


def variable_questions() -> list[Question]:
    """Of each dashboard's variables: the series, and the label whose values are offered."""
    found = []
    for file in DASHBOARDS:
        for variable in dashboard(file)["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert match is not None, variable["query"]
                found.append(Question(f"{file.stem}: ${variable['name']}", match[1], frozenset({match[2]})))
    return found


def _asked(node: Any, grouped_by: frozenset[str]) -> Iterator[Asked]:
    match node:
        case promql_parser.VectorSelector():
            matchers = tuple((each.name, str(each.op), each.value) for each in node.matchers.matchers)
            yield Asked(node.name, matchers, grouped_by)
        case promql_parser.MatrixSelector():
            yield from _asked(node.vector_selector, grouped_by)
        case promql_parser.AggregateExpr():
            assert node.modifier is None or node.modifier.type == promql_parser.AggModifierType.By
            yield from _asked(node.expr, frozenset(node.modifier.labels if node.modifier else ()))
        case promql_parser.BinaryExpr():
            on = frozenset(node.modifier.matching.labels) if node.modifier and node.modifier.matching else frozenset()
            yield from _asked(node.lhs, grouped_by | on)
            yield from _asked(node.rhs, grouped_by | on)
        case promql_parser.Call():
            for argument in node.args:
                yield from _asked(argument, grouped_by)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _asked(node.expr, grouped_by)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:
            raise AssertionError(f"{type(node)} is not known here")
