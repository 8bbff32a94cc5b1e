"""The CPU images as an engine builds them: what is in them, who may run them, and what they say of bad input.

Runs where a Docker engine is (``pytest -m docker``).
"""

import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from deploy.compose.__main__ import ROOT
from deploy.images.__main__ import ImageError, image_size, main
from tests.deploy.engine import Project, docker, why_not

REASON = why_not()
pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(REASON is not None, reason=f"needs a Docker engine: {REASON}"),
    pytest.mark.timeout(3600),
]

IMAGES = ("fathom-server", "fathom-export", "fathom-loadtest")
PROGRAMS = {
    "fathom-server": ("fathom-serve", "fathom-gateway", "fathom-client"),
    "fathom-export": ("fathom-export",),
    "fathom-loadtest": ("fathom-load", "fathom-client"),
}
VERSIONS = """
import importlib.metadata as m, json
print(json.dumps({d.metadata["Name"].lower().replace("_", "-"): d.version for d in m.distributions()}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The images of a clean checkout, removed at the end."""
    project = Project(tmp_path_factory.mktemp("images") / "checkout")
    try:
        project.build()
        yield project
    finally:
        project.remove()


def run(project: Project, image: str, *arguments: str, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run a command in an image as an arbitrary user, without network and rights; /tmp alone can be written to."""
    return subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--user=4711:4711", "--read-only", "--cap-drop=ALL",
         "--security-opt=no-new-privileges:true", "--tmpfs=/tmp:exec,mode=1777", *arguments,
         name_of(project, image), *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def name_of(project: Project, image: str) -> str:
    return f"{project.name}/{image}:0.1.0"


@pytest.mark.parametrize("image", IMAGES)
def test_any_user_runs_the_programs_on_a_read_only_root(project: Project, image: str) -> None:
    """Each program gives its help to a user that no file knows, in a container without rights."""
    for program in PROGRAMS[image]:
        done = run(project, image, command=(program, "--help"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: {program}")


@pytest.mark.parametrize("image", IMAGES)
def test_packages_have_the_pinned_versions(project: Project, image: str) -> None:
    """Every package is in constraints.txt with the version that the image has (torch's CPU build adds a +cpu)."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))
    found = json.loads(run(project, image, command=("python", "-c", VERSIONS)).stdout)
    ours = {name for name in found if name.startswith("fathom-")}
    assert ours >= {f"fathom-{image.removeprefix('fathom-')}", "fathom-client"}
    for name in found.keys() - ours:
        assert name in pins, f"{name} {found[name]} is not in constraints.txt"
        assert found[name].split("+")[0] == pins[name], name


@pytest.mark.parametrize("image", IMAGES)
def test_no_build_tools_are_left(project: Project, image: str) -> None:
    """No compiler, no build backend; pip in the export image alone, which fetches packages of models with it."""
    tools = "for tool in cc gcc g++ c++ clang make cmake hatchling git; do command -v $tool; done; true"
    assert run(project, image, command=("sh", "-c", tools)).stdout == ""
    has_pip = run(project, image, command=("python", "-m", "pip", "--version")).returncode == 0
    assert has_pip == (image == "fathom-export")


@pytest.mark.parametrize("image", IMAGES)
def test_labels_and_user_are_set(project: Project, image: str) -> None:
    """OCI's labels name the image, its version and licence; its user is no root; the server has a health check."""
    config = json.loads(docker("image", "inspect", name_of(project, image)))[0]["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert (labels["title"], labels["version"], labels["licenses"]) == (image, "0.1.0", "Apache-2.0")
    assert labels["description"]
    assert config["User"] == "10001:0"
    assert config["Healthcheck"]["Test"][0] == ("CMD" if image == "fathom-server" else "NONE")


@pytest.mark.parametrize("image", IMAGES)
def test_no_secret_of_the_build_is_kept(project: Project, image: str) -> None:
    """Neither the history nor a file holds what pip was given to reach its packages."""
    history = docker("history", "--no-trunc", name_of(project, image))
    assert not re.search(r"find-links|index-url|BEGIN CERTIFICATE", history)
    listing = "find / -xdev '(' -name pip.conf -o -path '/run/secrets/*' ')' -type f -size +0 2>/dev/null; true"
    assert run(project, image, command=("sh", "-c", listing)).stdout == ""


def test_the_servers_operators_are_in_the_image(project: Project) -> None:
    """ONNX Runtime loads the library that the build stage compiled."""
    code = "import onnxruntime as o; from fathom_server.native.library import register; "
    code += "print(register(o.SessionOptions()))"
    assert run(project, "fathom-server", command=("python", "-c", code)).stdout == "True\n"


def test_sizes_are_told_and_the_server_is_below_600_mb(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints each image unpacked and compressed; the layers' sum is the compressed size."""
    names = [name_of(project, image) for image in IMAGES]
    assert main(["--json", *names]) == 0
    sizes = json.loads(capsys.readouterr().out)
    assert list(sizes) == names
    assert all(0 < each["compressed"] < each["unpacked"] for each in sizes.values())
    assert sizes[names[0]]["compressed"] < 600_000_000


def test_an_image_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The command says how to build it, and exits 2."""
    assert main(["fathom-server:none-such"]) == 2
    assert re.fullmatch(r"error: fathom-server:none-such: .*; build it \(.*\)\n", capsys.readouterr().err)
    with pytest.raises(ImageError):
        image_size("fathom-server:none-such")


def fault(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a container that refused to start."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_volume_without_models_is_one_line(project: Project) -> None:
    """The server says that there is no repository and how one is made, and ends with status 2."""
    done = run(project, "fathom-server", command=("fathom-serve", "/models/repository"))
    assert re.search(r"error: .*/models/repository does not exist; make one with: fathom-export", fault(done))


def test_too_little_shared_memory_is_one_line(project: Project) -> None:
    """The server says how much there is and how to give it more."""
    ten = "for n in 0 1 2 3 4 5 6 7 8 9; do mkdir -p /tmp/r/m$n; touch /tmp/r/m$n/config.pbtxt; done"
    command = ("sh", "-c", f"{ten}; exec fathom-serve /tmp/r")
    done = run(project, "fathom-server", "--shm-size=8m", command=command)
    assert re.search(r"error: /dev/shm has 8 MiB free, but 10 models need 20 MiB.*shm_size in compose", fault(done))


def test_keys_that_cannot_be_read_are_one_line(project: Project) -> None:
    """The gateway names the file and what to check."""
    command = "umask 0777; echo key-of-somebody > /tmp/keys; exec fathom-gateway --keys /tmp/keys"
    assert re.search(
        r"error: API keys cannot be read from /tmp/keys \(Permission denied\)",
        fault(run(project, "fathom-server", command=("sh", "-c", command))),
    )


def test_a_volume_that_cannot_be_written_is_one_line(project: Project) -> None:
    """fathom-export names the place and what to do, and ends with status 2."""
    source = f"--volume={project.folder}/examples/models/small:/small:ro"
    command = ["fathom-export", "/small", "--name", "chat", "--task", "generate", "--repository", "/models/repository"]
    done = run(project, "fathom-export", source, command=tuple(command))
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("chat: ")]
    assert re.search(r"error: /models/repository cannot be .* \(Read-only file system\); mend its permissions", line)
