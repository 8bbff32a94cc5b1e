"""docker-compose.yml and what belongs to it, held together without an engine."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from deploy.compose.__main__ import ROOT, main
from deploy.compose.checks import DISTRIBUTIONS, IMAGES, ITL_MS, findings
from deploy.compose.compose_file import ComposeFile
from deploy.compose.errors import ComposeError
from deploy.compose.example_file import read_example
from deploy.compose.stop import longest_answer, stop_times
from tests.deploy.chart.rendering import CHART, render

from fathom_client.cli import build_parser as client_parser
from fathom_export.cli import _parser as export_parser
from fathom_export.spec import VllmSpec
from fathom_export.spec.bundle import read_bundle
from fathom_export.tensorrt.command import parser as plan_parser
from fathom_loadtest.cli import build_parser as load_parser
from fathom_server.cli import build_parser as serve_parser
from fathom_server.gateway.cli import build_parser as gateway_parser

COMPOSE = ComposeFile.read(ROOT / "docker-compose.yml")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the checks read, to be changed."""
    for name in ("docker-compose.yml", ".env.example", "bundle.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in DISTRIBUTIONS:
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / name / "pyproject.toml", tmp_path / name)
    for name in IMAGES:
        shutil.copy(ROOT / name / "Dockerfile", tmp_path / name)
    for folder in ("deploy/compose", "deploy/observability", "loadtest/scenarios"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "examples" / "models").mkdir(parents=True)
    return tmp_path


def test_nothing_is_wrong() -> None:
    """Schema, variables, addresses, rights, mounts, versions and times of the stop are as they must be."""
    assert findings(ROOT) == []


def test_a_copy_of_the_checkout_is_as_good(checkout: Path) -> None:
    """What the tests below find wrong is their own doing."""
    assert findings(checkout) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("docker-compose.yml", "read_only: true", "read_only: maybe so", "read_only"),
        ("docker-compose.yml", "stop_grace_period: 30s", "stop_grace: 30s", "stop_grace"),
        ("docker-compose.yml", "127.0.0.1:${FATHOM_GRPC", "0.0.0.0:${FATHOM_GRPC", "server publishes 0.0.0.0:8001"),
        ("docker-compose.yml", "127.0.0.1:${FATHOM_OPENAI", "${FATHOM_OPENAI", "gateway publishes 9000:9000"),
        ("docker-compose.yml", "cap_drop: [ALL]", "cap_drop: [NET_RAW]", "server has cap_drop ['NET_RAW']"),
        ("docker-compose.yml", "${FATHOM_UID:-10001}", "${FATHOM_UID:-0}", "server runs as root"),
        ("docker-compose.yml", "${FATHOM_SHM_SIZE:-1g}", "${FATHOM_SHM:-1g}", "FATHOM_SHM is not in .env.example"),
        ("docker-compose.yml", "${FATHOM_SHM_SIZE:-1g}", "2g", "FATHOM_SHM_SIZE of .env.example is taken by nothing"),
        ("docker-compose.yml", "FATHOM_SHM_SIZE:-1g", "FATHOM_SHM_SIZE:-2g", "FATHOM_SHM_SIZE has the default '2g'"),
        ("docker-compose.yml", "./bundle.toml}", "./bundle.tml}", "models mounts ./bundle.tml, which is not there"),
        ("docker-compose.yml", "prom/prometheus:v2.53.4", "prom/prometheus", "prometheus takes prom/prometheus;"),
        ("docker-compose.yml", "FATHOM_DRAIN_S:-108", "FATHOM_DRAIN_S:-30", "FATHOM_DRAIN_S has the default"),
        ("bundle.toml", "max_context = 2048", "max_context = 4096", "50 ms a token give 210"),
        ("server/Dockerfile", "tritonserver:26.08-py3", "tritonserver:26.07-py3", "TRITON_IMAGE is nvcr.io/"),
        ("export/Dockerfile", "VERSION=0.1.0", "VERSION=0.2.0", "VERSION is 0.2.0 in export/Dockerfile"),
        ("loadtest/pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"', "loadtest/pyproject.toml has 0.2.0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(checkout: Path, file: str, old: str, new: str, found: str) -> None:
    """Each check fails for what it is there for, and says where."""
    text = (checkout / file).read_text(encoding="utf-8")
    assert old in text
    (checkout / file).write_text(text.replace(old, new), encoding="utf-8")
    assert any(found in finding for finding in findings(checkout)), findings(checkout)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda root: (root / "docker-compose.yml").write_text("services: [a"), "docker-compose.yml cannot be read"),
        (lambda root: (root / "docker-compose.yml").write_text("- a\n"), "is no compose file"),
        (lambda root: (root / "docker-compose.yml").unlink(), "docker-compose.yml cannot be read"),
        (lambda root: (root / ".env.example").write_text("A=1\n"), "'A=1' is no comment"),
        (lambda root: (root / ".env.example").write_text("# A=1\n"), "nothing explains A"),
        (lambda root: (root / "bundle.toml").write_text("models = ["), "bundle.toml cannot be read"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(
    checkout: Path, damage: Callable[[Path], object], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names file and fault in one line and exits 2."""
    damage(checkout)
    assert main(["check", "--root", str(checkout)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert fault in error
    assert error.count("\n") == 1


def test_the_command_exits_1_with_a_line_for_each_finding(checkout: Path) -> None:
    """As ``make check`` calls it."""
    text = (checkout / "docker-compose.yml").read_text(encoding="utf-8")
    (checkout / "docker-compose.yml").write_text(text.replace("shm_size", "shm_sise"), encoding="utf-8")
    command = [sys.executable, "-m", "deploy.compose", "check", "--root", str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "")
    assert "shm_sise" in done.stdout


def words(service: str) -> list[str]:
    """A service's command, with the variables' defaults."""
    command = COMPOSE.with_defaults()["services"][service]["command"]
    return shlex.split(command) if isinstance(command, str) else command


def test_commands_are_those_of_the_programs() -> None:
    """Every command line is parsed by its program's own parser, with the ports that are published."""
    for name in ("server", "gpu-server", "vllm-server"):
        program, *arguments = words(name)
        assert program == "fathom-serve"
        served = serve_parser().parse_args(arguments)
        assert (served.http_port, served.grpc_port, served.metrics_port) == (None, None, None)
        assert served.host == "0.0.0.0"  # noqa: S104 (inside its container)
        assert str(served.repository) == "/models/repository"
    for name in ("gateway", "gpu-gateway", "vllm-gateway"):
        program, *arguments = words(name)
        assert program == "fathom-gateway"
        assert gateway_parser().parse_args(arguments).target == "server:8001"
    for name in ("models", "gpu-models", "vllm-models", "export"):
        program, *arguments = words(name)
        assert program == "fathom-export"
        assert str(export_parser().parse_args(arguments).repository) == "/models/repository"
    assert words("gpu-plan")[:2] == ["fathom-export", "plan"]
    assert plan_parser().parse_args(words("gpu-plan")[2:]).model == "chat"
    for name in ("loadtest", "loadtest-master", "loadtest-worker"):
        program, *arguments = words(name)
        assert program == "fathom-load"
        load_parser().parse_args(arguments)


def test_keys_are_asked_for_where_a_file_names_them() -> None:
    """A command takes the secret when the variable is set, and none otherwise."""
    keys = "${FATHOM_GATEWAY_KEYS:+--keys=/run/secrets/gateway_keys}"
    admin = "${FATHOM_ADMIN_KEY_FILE:+--admin-key-file=/run/secrets/admin_key}"
    for service, argument in (("gateway", keys), ("gpu-gateway", keys), ("server", admin), ("gpu-server", admin)):
        assert argument in COMPOSE.services[service]["command"]
        flag, _, file = argument.rpartition("+")[2].removesuffix("}").partition("=")
        assert file.removeprefix("/run/secrets/") in COMPOSE.services[service]["secrets"]
        assert not any(flag in word for word in words(service))
    assert gateway_parser().parse_args(["--keys", "x"]).keys == Path("x")
    assert serve_parser().parse_args(["--admin-key-file", "x"]).admin_key_file == Path("x")


def test_no_secret_stands_in_the_environment() -> None:
    """Tokens, keys and passwords are files under /run/secrets; a variable names at most their path."""
    for name, service in COMPOSE.services.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("TOKEN|KEY|PASSWORD|SECRET", variable):
                assert value.startswith("/run/secrets/"), (name, variable)
                assert value.removeprefix("/run/secrets/") in service["secrets"], (name, variable)


def test_bundles_are_bundles() -> None:
    """fathom-export reads every profile's; a plan's model can have one, vLLM's takes the GPUs that it gets."""
    read_bundle(ROOT / "bundle.toml")
    models = {spec.name: spec for spec in read_bundle(ROOT / "deploy" / "compose" / "gpu-bundle.toml").models}
    planned = models[words("gpu-plan")[2]]
    assert getattr(planned, "dialect", None) == "portable"
    (spec,) = read_bundle(ROOT / "deploy" / "compose" / "vllm-bundle.toml").models
    assert isinstance(spec, VllmSpec)
    defaults = {variable.name: variable.default for variable in COMPOSE.variables()}
    assert spec.vllm.tensor_parallel_size == int(defaults["FATHOM_GPUS"] or 0)


@pytest.mark.parametrize(
    ("bundle", "tokens"),
    [
        ('[[models]]\ntask = "generate"\nlimits = {max_context = 100}\n[[models]]\ntask = "generate"\n', 2048),
        ('[[models]]\ntask = "generate"\nlimits = {max_context = 8192}\n[[models]]\ntask = "embed"\n', 8192),
    ],
)
def test_the_longest_answer_is_that_of_the_largest_context(tmp_path: Path, bundle: str, tokens: int) -> None:
    """LLMs count, with fathom-export's own default where they name none."""
    (tmp_path / "bundle.toml").write_text(bundle, encoding="utf-8")
    assert longest_answer(tmp_path / "bundle.toml") == tokens


def test_a_bundle_without_an_llm_has_no_longest_answer(tmp_path: Path) -> None:
    """An error says that the defaults may stay."""
    (tmp_path / "bundle.toml").write_text('[[models]]\ntask = "embed"\n', encoding="utf-8")
    with pytest.raises(ComposeError, match="keep the defaults"):
        longest_answer(tmp_path / "bundle.toml")


@pytest.mark.parametrize(("max_context", "itl_ms"), [(2048, 50), (16384, 12.5), (128, 5)])
def test_chart_and_compose_take_the_same_time_for_a_stop(max_context: int, itl_ms: float) -> None:
    """The chart's drain is the compose file's, its grace longer by the time that a pod stays in the services."""
    bundle = (
        f'[[models]]\nname = "chat"\nsource = "a/b"\ntask = "generate"\nlimits = {{ max_context = {max_context} }}\n'
    )
    rendered = render({"bundle": bundle, "drain": {"interTokenLatencyMs": itl_ms}})
    spec = rendered.server()["spec"]
    times = stop_times(max_context, itl_ms)
    assert f"--drain-s={times.drain_s}" in spec["containers"][0]["command"]
    pre_stop_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] == times.grace_s + pre_stop_s


def test_the_defaults_are_made_for_the_charts_latency() -> None:
    """Both name the same milliseconds between two tokens."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert values["drain"]["interTokenLatencyMs"] == ITL_MS


def test_the_stop_command_prints_lines_for_env(capsys: pytest.CaptureFixture[str]) -> None:
    """Its variables are those of .env.example."""
    assert main(["stop", "--max-tokens", "1000", "--itl-ms", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["FATHOM_DRAIN_S=45", "FATHOM_STOP_GRACE_S=55"]
    assert {line.partition("=")[0] for line in lines} <= {each.name for each in read_example(ROOT / ".env.example")}


@pytest.mark.parametrize("arguments", [["--itl-ms", "0"], ["--itl-ms", "nan"], ["--max-tokens", "-1"]])
def test_a_stop_that_cannot_be_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit status 2."""
    assert main(["stop", *arguments]) == 2
    assert re.fullmatch(r"error: .* must be a number above 0\n", capsys.readouterr().err)


def test_waiting_for_the_server_is_a_command_of_the_client() -> None:
    """docs/compose.md waits with fathom-client."""
    client_parser().parse_args(["wait", "--url", "localhost:8001", "--for", "60"])


def test_the_prometheus_files_are_where_they_are_mounted() -> None:
    """prometheus.yml loads the rules that are mounted beside it, and scrapes services by their names."""
    config = yaml.safe_load((ROOT / "deploy" / "observability" / "prometheus.yml").read_text(encoding="utf-8"))
    assert config["rule_files"] == ["rules/*.yml"]
    asked = {name for job in config["scrape_configs"] for each in job["dns_sd_configs"] for name in each["names"]}
    assert asked <= COMPOSE.services.keys()
    for service in ("gpu-server", "gpu-gateway", "vllm-server", "vllm-gateway"):
        answers_for = service.partition("-")[2]
        assert COMPOSE.services[service]["networks"]["default"]["aliases"] == [answers_for]
    assert tomllib.loads((ROOT / "bundle.toml").read_text(encoding="utf-8"))["models"]
