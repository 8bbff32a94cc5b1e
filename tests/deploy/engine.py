"""A compose project of a test's own on a real Docker engine: a clean checkout, images, ports and volumes of its own."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deploy.compose.__main__ import ROOT

LEAST_COMPOSE = (2, 26)
PORTS = ("HTTP", "GRPC", "METRICS", "OPENAI", "LOCUST", "PROMETHEUS", "GRAFANA")


def why_not() -> str | None:
    """Why there is no engine to test with; None if there is one."""
    if shutil.which("docker") is None:
        return "docker is not on the PATH"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine answers"
    version = subprocess.run(["docker", "compose", "version", "--short"], capture_output=True, text=True, check=False)
    found = version.stdout.strip().removeprefix("v").split("-")[0]
    if version.returncode or tuple(map(int, found.split(".")[:2])) < LEAST_COMPOSE:
        return f"Docker Compose is {found or 'not there'}; {'.'.join(map(str, LEAST_COMPOSE))} is needed"
    return None


def docker(*arguments: str) -> str:
    """What a docker command prints; a command that fails fails the test with all that it said."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def both_streams(container: str) -> str:
    """What a container has said so far."""
    said = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return said.stdout + said.stderr


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Return when it holds; fails the test if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


class Project:
    """``docker compose`` in a clean checkout of HEAD, under a name of its own.

    Variables of the environment hold (FATHOM_PIP_CONF and the like, where packages come from a mirror), but images and
    ports are the project's.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"fathomtest{secrets.token_hex(4)}"
        self.folder = folder
        folder.mkdir()
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive, check=True)
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        self.ports = {name: each.getsockname()[1] for name, each in zip(PORTS, sockets, strict=True)}
        for each in sockets:
            each.close()
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.name,
            "FATHOM_IMAGE_PREFIX": f"{self.name}/",
            **{f"FATHOM_{name}_PORT": str(port) for name, port in self.ports.items()},
        }

    def build(self) -> None:
        """Build the images of the default profile and of loadtest; skips the test where there is no base image."""
        base = dict(re.findall(r"^ARG (\w+)=(.*)$", (self.folder / "server/Dockerfile").read_text(), re.MULTILINE))
        image = self.environment.get("FATHOM_PYTHON_IMAGE", base["PYTHON_IMAGE"])
        commands = (["image", "inspect", image], ["pull", image])
        if all(subprocess.run(["docker", *each], capture_output=True, check=False).returncode for each in commands):
            pytest.skip(f"the base image {image} is not here and cannot be pulled")
        self("--profile=loadtest", "build")

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a compose command to its end, whatever that is; what it says is in ``stdout``."""
        return subprocess.run(
            ["docker", "compose", "--ansi=never", "--progress=plain", *arguments],
            cwd=self.folder, env={**self.environment, **variables}, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __call__(self, *arguments: str, **variables: str) -> str:
        """What a compose command says; one that fails fails the test."""
        done = self.run(*arguments, **variables)
        said = f"docker compose {' '.join(arguments)}\n{done.stdout[-8000:]}"
        assert done.returncode == 0, f"{said}\n{self.logs()[-8000:]}"
        return done.stdout

    def logs(self, *services: str) -> str:
        """All lines of services' containers, without their names."""
        return self.run("--profile=*", "logs", "--no-color", "--no-log-prefix", *services).stdout

    def container(self, service: str) -> str:
        """Id of a service's one container, running or not."""
        return self("--profile=*", "ps", "--all", "--quiet", service).strip()

    def state(self, service: str) -> dict[str, Any]:
        """What the engine knows of the state of a service's container, with ``RestartCount``."""
        inspected: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return {**inspected["State"], "RestartCount": inspected["RestartCount"]}

    def is_healthy(self, service: str) -> bool:
        """Whether a service's container runs and passes its health check."""
        state = self.state(service)
        return bool(state["Running"]) and state["Health"]["Status"] == "healthy"

    def leftovers(self) -> list[str]:
        """Containers, volumes, networks and images that bear the project's name."""
        label = f"label=com.docker.compose.project={self.name}"
        found = docker("ps", "--all", "--quiet", "--filter", label).split()
        found += docker("volume", "ls", "--quiet", "--filter", label).split()
        found += docker("network", "ls", "--quiet", "--filter", label).split()
        return found + self.images()

    def images(self) -> list[str]:
        """Names of the project's own images."""
        return docker("images", "--format={{.Repository}}:{{.Tag}}", "--filter", f"reference={self.name}/*").split()

    def remove(self) -> None:
        """Take everything down, volumes and images too."""
        self.run("--profile=*", "down", "--volumes", "--remove-orphans", "--timeout=10")
        if images := self.images():
            docker("image", "rm", *images)  # by name: the same image may have other names that are not ours
