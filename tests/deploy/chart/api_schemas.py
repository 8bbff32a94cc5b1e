"""Kubernetes's own schemas of its objects, as kubernetes-validate has them, strict about unknown fields."""

from functools import cache
from typing import Any

import jsonschema_rs
from kubernetes_validate.utils import all_versions, schema_contents

VERSIONS = tuple(dict.fromkeys(each for each in all_versions() if tuple(map(int, each.split(".")[:2])) >= (1, 30)))
DEFINITIONS = "_definitions.json"


@cache
def definitions(version: str) -> dict[str, Any]:
    contents: dict[str, Any] = schema_contents(f"kubernetes-json-schema/v{version}-local-strict/{DEFINITIONS}", version)
    return contents


@cache
def validator(version: str, api_version: str, kind: str) -> jsonschema_rs.Validator:
    """A validator of one kind, which refuses fields that the version does not know."""
    known = definitions(version)
    found = [name for name, each in known["$defs"].items() if is_kind(each, api_version, kind)]
    assert len(found) == 1, f"Kubernetes {version} has no {kind} of {api_version}"
    return jsonschema_rs.validator_for({**known, "$ref": f"#/$defs/{found[0]}"})


def is_kind(definition: dict[str, Any], api_version: str, kind: str) -> bool:
    group, _, version = api_version.rpartition("/")
    wanted = {"group": group, "kind": kind, "version": version}
    return wanted in definition.get("x-kubernetes-group-version-kind", [])


def faults(version: str, each: dict[str, Any]) -> list[str]:
    found = validator(version, each["apiVersion"], each["kind"]).iter_errors(each)
    return [
        f"{each['kind']}/{each['metadata']['name']} {list(fault.instance_path)}: {fault.message}" for fault in found
    ]
