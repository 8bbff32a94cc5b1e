"""The chart rendered by Helm's own library, and its objects."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "fathom"
CASES = tuple(sorted(file.name.removesuffix("-values.yaml") for file in (CHART / "ci").glob("*-values.yaml")))
WORKLOADS = ("Deployment", "StatefulSet", "Job")


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, as the API server's strict decoding does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} is given twice, {node.start_mark}")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class Rendered:
    """What one set of values makes."""

    texts: dict[str, str]
    objects: tuple[dict[str, Any], ...]

    def kinds(self) -> set[str]:
        return {each["kind"] for each in self.objects}

    def of(self, kind: str, end: str = "") -> list[dict[str, Any]]:
        """Objects of a kind whose names end so."""
        return [each for each in self.objects if each["kind"] == kind and each["metadata"]["name"].endswith(end)]

    def one(self, kind: str, end: str = "") -> dict[str, Any]:
        (found,) = self.of(kind, end)
        return found

    @property
    def notes(self) -> str:
        return self.texts["fathom/templates/NOTES.txt"]

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every pod template, with labels as metadata, by a name."""
        for each in self.objects:
            name = f"{each['kind']}/{each['metadata']['name']}"
            if each["kind"] == "Pod":
                yield name, each
            elif each["kind"] in WORKLOADS:
                yield name, each["spec"]["template"]
            elif each["kind"] == "LeaderWorkerSet":
                group = each["spec"]["leaderWorkerTemplate"]
                yield f"{name}/leader", group["leaderTemplate"]
                yield f"{name}/worker", group["workerTemplate"]

    def server(self) -> dict[str, Any]:
        """The pod of the server."""
        return next(
            pod for _, pod in self.pods() if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
        )


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of a pod, in the order in which they start."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def case_values(case: str) -> dict[str, Any]:
    """The values of a file in ``ci/``."""
    values: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{case}-values.yaml").read_text(encoding="utf-8"))
    return values


@cache
def loaded_chart() -> helm_python.Chart:
    return helm_python.Chart.load(str(CHART))


def render(values: dict[str, Any] | None = None, name: str = "demo", **options: Any) -> Rendered:
    """Render and parse; raises Helm's errors, and YAMLError for a key given twice."""
    texts = loaded_chart().render(values or {}, name=name, namespace="prod", **options)
    objects = [
        document
        for file, text in texts.items()
        if not file.endswith(".txt")
        for document in yaml.load_all(text, Loader=UniqueKeyLoader)
        if document is not None
    ]
    return Rendered(texts, tuple(objects))


@cache
def rendered_case(case: str) -> Rendered:
    """A file of ``ci/`` rendered; once for all tests."""
    return render(case_values(case))
