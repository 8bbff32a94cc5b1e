"""The Dockerfiles and .dockerignore as texts: what needs no engine to be seen."""

import re
import tomllib
from pathlib import Path

import pytest
from deploy.compose.__main__ import ROOT
from deploy.compose.checks import IMAGES
from deploy.images.__main__ import cpu_images
from pathspec import PathSpec

STAGE = re.compile(r"^FROM (?P<base>\S+)(?: AS (?P<name>\S+))?$", re.MULTILINE)


def stages(image: str) -> dict[str, str]:
    """Each stage's instructions by its name, lines joined, without comments; the last one may have none."""
    text = (ROOT / image / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    parts = list(STAGE.finditer(text))
    ends = [part.start() for part in parts[1:]] + [len(text)]
    return {part["name"] or "": text[part.start() : end] for part, end in zip(parts, ends, strict=True)}


def final_stages(image: str) -> dict[str, str]:
    return {name: text for name, text in stages(image).items() if not name.endswith("build")}


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_shipped_is_no_root_and_has_labels(image: str) -> None:
    """Every final stage has a user, OCI's labels, a decision about its health, and nothing to build with."""
    for name, text in final_stages(image).items():
        assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:0"], name
        assert re.search(r"^HEALTHCHECK (NONE|--interval)", text, re.MULTILINE), name
        for label in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{label}=" in text, (name, label)
        assert not re.search(r"apt-get|pip install|^ADD ", text, re.MULTILINE), name


@pytest.mark.parametrize("image", IMAGES)
def test_every_install_is_pinned_and_may_use_a_mirror(image: str) -> None:
    """Stages that install have constraints.txt in pip's environment, and pip's secrets in each step that fetches."""
    for name, text in stages(image).items():
        if not name.endswith("build"):
            continue
        assert "PIP_CONSTRAINT=/src/constraints.txt" in text, name
        assert re.search(r"^COPY constraints.txt \./$", text, re.MULTILINE), name
        steps = [step for step in re.findall(r"^RUN (.*)$", text, re.MULTILINE) if re.search(r"pip .*install", step)]
        assert len(steps) == 2, name
        for step in steps:
            assert "type=secret,id=pip_conf" in step, name
            assert "type=secret,id=ca_certificates" in step, name


@pytest.mark.parametrize("image", IMAGES)
def test_installed_extras_exist(image: str) -> None:
    """Each extra that a Dockerfile asks for is one of the distribution."""
    text = (ROOT / image / "Dockerfile").read_text(encoding="utf-8")
    for distribution, extras in re.findall(r"fathom_(\w+)-\*\.whl\)\[([a-z,]+)\]", text):
        project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert set(extras.split(",")) <= project["optional-dependencies"].keys(), distribution


def test_the_images_that_are_weighed_are_those_of_the_compose_file() -> None:
    """The command's default is every CPU image of our own, once."""
    assert [name.partition(":")[0] for name in cpu_images()] == ["fathom-export", "fathom-loadtest", "fathom-server"]


def test_no_image_for_gpus_has_torch_or_two_runtimes() -> None:
    """The extra gpu brings onnxruntime-gpu; neither torch nor the CPU's onnxruntime is asked for beside it."""
    gpu = stages("server")["gpu-build"]
    assert "[gpu,gateway,otel,tensorrt]" in gpu
    assert "[torch]" not in gpu + stages("export")["plan-build"]


def test_every_base_is_an_argument() -> None:
    """Images come from PYTHON_IMAGE, TRITON_IMAGE or VLLM_IMAGE, so that a mirror or a digest can stand in."""
    for image in IMAGES:
        for base in STAGE.findall((ROOT / image / "Dockerfile").read_text(encoding="utf-8")):
            assert base[0] in ("${PYTHON_IMAGE}", "${TRITON_IMAGE}", "${VLLM_IMAGE}"), image


@pytest.mark.parametrize(
    ("path", "is_sent"),
    [
        ("constraints.txt", True),
        ("client/pyproject.toml", True),
        ("server/fathom_server/native/src/attention.cpp", True),
        ("export/README.md", True),
        (".env", False),
        ("keys", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("model_repository/chat/1/model.onnx.data", False),
        ("server/fathom_server/native/libfathom_ops.so", False),
        ("client/fathom_client/__pycache__/cli.cpython-311.pyc", False),
        ("client/fathom_client.egg-info/PKG-INFO", False),
    ],
)
def test_a_build_sees_sources_alone(path: str, is_sent: bool) -> None:
    """.dockerignore lets the distributions through; secrets, weights and what was built here stay out."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert PathSpec.from_lines("gitignore", lines).match_file(Path(path)) is not is_sent
