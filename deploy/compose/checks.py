"""What must be true of ``docker-compose.yml`` and what belongs to it, found out without an engine."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema

from deploy.compose.compose_file import ComposeFile
from deploy.compose.example_file import read_example
from deploy.compose.stop import longest_answer, stop_times

SCHEMA: Final = Path(__file__).with_name("vendor") / "compose-spec.json"
ITL_MS: Final = 50.0
"""Milliseconds between two tokens for which the defaults are made, as in the chart."""

DISTRIBUTIONS: Final = ("client", "server", "export", "loadtest")
IMAGES: Final = ("server", "export", "loadtest")
SHARED_ARGUMENTS: Final = ("PYTHON_IMAGE", "TRITON_IMAGE", "VLLM_IMAGE", "VERSION")


def findings(root: Path) -> list[str]:
    """What is wrong with the compose file of a checkout, a sentence each; raises ComposeError for unreadable files."""
    compose = ComposeFile.read(root / "docker-compose.yml")
    return [
        *schema_findings(compose),
        *variable_findings(compose, root / ".env.example"),
        *service_findings(compose),
        *mount_findings(compose, root),
        *version_findings(compose, root),
        *stop_findings(compose, root / "bundle.toml"),
    ]


def schema_findings(compose: ComposeFile) -> Iterator[str]:
    """What the Compose Specification's schema refuses, variables at their defaults."""
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    for error in validator.iter_errors(compose.with_defaults()):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


def variable_findings(compose: ComposeFile, example: Path) -> Iterator[str]:
    """Variables that are not explained, explained ones that nothing takes, and defaults that differ."""
    explained = {variable.name: variable.default for variable in read_example(example)}
    taken: dict[str, set[str]] = {}
    for variable in compose.variables():
        defaults = taken.setdefault(variable.name, set())
        if variable.default is not None:
            defaults.add(variable.default)
    for name in sorted(taken.keys() - explained.keys()):
        yield f"{name} is not in {example.name}; explain it there"
    for name in sorted(explained.keys() - taken.keys()):
        yield f"{name} of {example.name} is taken by nothing in {compose.path.name}; remove it"
    for name in sorted(taken.keys() & explained.keys()):
        if taken[name] != {explained[name]}:
            found = " and ".join(repr(default) for default in sorted(taken[name]))
            yield f"{name} has the default {found} in {compose.path.name}, {explained[name]!r} in {example.name}"


def service_findings(compose: ComposeFile) -> Iterator[str]:
    """Ports open to others, and containers with more rights than they need, or without a limit."""
    for name, service in compose.with_defaults()["services"].items():
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name} publishes {port}; publish on 127.0.0.1, and let others in through a proxy with TLS"
        wanted = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
        for key, value in wanted.items():
            if service.get(key) != value:
                yield f"{name} has {key} {service.get(key)!r}; it must be {value!r}"
        if str(service.get("user", "root")).split(":")[0] in ("root", "0", ""):
            yield f"{name} runs as root; give it a user"
        if not _limits(service).get("memory"):
            yield f"{name} has no memory limit; give it one in deploy.resources.limits"
        if "cpus" not in _limits(service):
            yield f"{name} has no CPU limit; give it one (0: all) in deploy.resources.limits"
        if service.get("restart") is not None and "healthcheck" not in service and service["restart"] != "on-failure":
            yield f"{name} is restarted but has no health check; add one"


def mount_findings(compose: ComposeFile, root: Path) -> Iterator[str]:
    """Files of this checkout that are mounted and are not there: Docker would make a folder of that name."""
    content = compose.with_defaults()
    sources = [
        (name, str(volume).partition(":")[0])
        for name, service in content["services"].items()
        for volume in service.get("volumes", [])
    ]
    sources += [(f"secret {name}", secret["file"]) for name, secret in content.get("secrets", {}).items()]
    for name, source in sources:
        if source.startswith(".") and not (root / source).exists():
            yield f"{name} mounts {source}, which is not there"


def version_findings(compose: ComposeFile, root: Path) -> Iterator[str]:
    """Versions that differ among distributions, Dockerfiles and compose file, and images without one."""
    version = dict(_defaults(compose))["FATHOM_VERSION"]
    for name in DISTRIBUTIONS:
        own = tomllib.loads((root / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        if own != version:
            yield f"FATHOM_VERSION is {version}, but {name}/pyproject.toml has {own}"
    for name in IMAGES:
        arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", (root / name / "Dockerfile").read_text("utf-8"), re.MULTILINE))
        for argument in SHARED_ARGUMENTS:
            default = dict(_defaults(compose))[f"FATHOM_{argument}"]
            if arguments.get(argument, default) != default:
                yield f"{argument} is {arguments[argument]} in {name}/Dockerfile, {default} in {compose.path.name}"
    for name, service in compose.with_defaults()["services"].items():
        tag = str(service.get("image", "")).rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest"):
            yield f"{name} takes {service.get('image')}; name a version"


def stop_findings(compose: ComposeFile, bundle: Path) -> Iterator[str]:
    """Times of a stop that do not follow from the bundle, and services that do not keep to them."""
    times = stop_times(longest_answer(bundle), ITL_MS)
    defaults = dict(_defaults(compose))
    for name, value in (("FATHOM_DRAIN_S", times.drain_s), ("FATHOM_STOP_GRACE_S", times.grace_s)):
        if defaults[name] != str(value):
            yield f"{name} has the default {defaults[name]}; {bundle.name} and {ITL_MS:g} ms a token give {value}"
    for name, service in compose.with_defaults()["services"].items():
        if re.search(r"--drain-s\b", str(service.get("command"))) and (
            service.get("stop_grace_period") != f"{defaults['FATHOM_STOP_GRACE_S']}s"
        ):
            yield f"{name} drains, but its stop_grace_period is not ${{FATHOM_STOP_GRACE_S}}s"


def _defaults(compose: ComposeFile) -> Iterator[tuple[str, str]]:
    for variable in compose.variables():
        if variable.default is not None:
            yield variable.name, variable.default


def _limits(service: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = service.get("deploy", {}).get("resources", {}).get("limits", {})
    return limits
