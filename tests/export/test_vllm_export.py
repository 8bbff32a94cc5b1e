"""What ``engine = "vllm"`` writes, and what it refuses."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tests.export.hub_stand_in import COMMIT, HubStandIn, running_hub
from tritonclient.grpc import model_config_pb2

from fathom_client import protocol
from fathom_export.cli import main
from fathom_export.errors import SpecError
from fathom_export.spec import VllmSpec, read_model
from fathom_export.vllm.arguments import known_arguments
from fathom_server.engine.settings import EngineLimits
from fathom_server.vllm import tensors
from fathom_server.vllm.settings import VllmSettings

MODELS = ("chat", "chat_tokenizer", "chat_ensemble", "chat_vllm")
MODEL = {"name": "chat", "source": "here", "task": "generate", "engine": "vllm"}


def write(folder: Path, source: Path, more: str = "", repository: str = "repository") -> Path:
    """A bundle of one such model; returns its file."""
    bundle = folder / "bundle.toml"
    bundle.write_text(
        f'repository = "{repository}"\n[[models]]\nname = "chat"\nsource = "{source}"\ntask = "generate"\n'
        f'engine = "vllm"\n{more}\n'
    )
    return bundle


def arguments(repository: Path, version: int = 1) -> dict[str, Any]:
    """What vLLM is told."""
    content: dict[str, Any] = json.loads((repository / "chat_vllm" / str(version) / tensors.ARGUMENTS_FILE).read_text())
    return content


def config(repository: Path, model: str) -> Any:
    """A model's config.pbtxt, parsed as Triton parses it."""
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_the_repository_of_a_spec(tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four models; vLLM's own with its arguments, and before it one of every LLM's tensors; no weights, no drift."""
    more = (
        'precision = "fp8"\nlimits = { max_batch = 32, max_queue = 8, max_context = 100, kv_cache_dtype = "fp8" }\n'
        "[models.vllm]\ntensor_parallel_size = 4\npipeline_parallel_size = 2\nnodes = 2\ngpu_memory_utilization = 0.8\n"
        "[models.vllm.arguments]\nenable_prefix_caching = true\nseed = 7\n"
    )
    bundle, repository = write(tmp_path, tiny_llm, more), tmp_path / "repository"
    assert main([str(bundle)]) == 0
    assert sorted(path.name for path in repository.iterdir()) == sorted(MODELS)
    assert arguments(repository) == {
        "model": str(tiny_llm),
        "dtype": "auto",
        "quantization": "fp8_per_tensor",
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 2,
        "distributed_executor_backend": "ray",
        "gpu_memory_utilization": 0.8,
        "kv_cache_dtype": "fp8",
        "max_model_len": 100,
        "max_num_seqs": 32,
        "enable_prefix_caching": True,
        "seed": 7,
    }
    for name, value in arguments(repository).items():
        known_arguments().check(name, value, name)

    vllm = config(repository, "chat_vllm")
    assert (vllm.backend, vllm.max_batch_size, vllm.model_transaction_policy.decoupled) == ("vllm", 0, True)
    assert [group.kind for group in vllm.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_MODEL]
    assert [tensor.name for tensor in vllm.input] == [tensor.name for tensor in tensors.INPUTS]
    assert [tensor.name for tensor in vllm.output] == [tensor.name for tensor in tensors.OUTPUTS]
    assert vllm.parameters[tensors.METRICS_PARAMETER].string_value == "true"
    assert vllm.parameters[tensors.HEALTH_CHECK_PARAMETER].string_value == "true"

    chat = config(repository, "chat")
    assert (chat.backend, chat.model_transaction_policy.decoupled) == ("fathom", True)
    assert [tensor.name for tensor in chat.input] == [tensor.name for tensor in protocol.GENERATE_INPUTS]
    assert [tensor.name for tensor in chat.output] == [tensor.name for tensor in protocol.GENERATE_OUTPUTS]
    assert VllmSettings.load(repository / "chat" / "1") == VllmSettings(
        "chat_vllm", 40, 100, EngineLimits().default_max_tokens, EngineLimits().timeout_s, 300
    )
    passport = json.loads((repository / "chat" / "1" / "passport.json").read_text())
    assert "model.safetensors" not in passport["origin"]["source_files"]
    assert "config.json" in passport["origin"]["source_files"]
    assert not [path for path in repository.rglob("*") if path.suffix in (".onnx", ".safetensors")]

    assert main(["--check", str(bundle)]) == 0
    assert main([str(bundle)]) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_change_is_the_next_version_of_all_four(tiny_llm: Path, tmp_path: Path) -> None:
    """Other arguments make version 2, which a rollback takes back, for all models at once."""
    repository = tmp_path / "repository"
    assert main([str(write(tmp_path, tiny_llm))]) == 0
    assert main([str(write(tmp_path, tiny_llm, "vllm = { gpu_memory_utilization = 0.5 }"))]) == 0
    assert arguments(repository, 2)["gpu_memory_utilization"] == 0.5
    for version in (2, 1):
        for model in MODELS:
            assert list(config(repository, model).version_policy.specific.versions) == [version]
        if version == 2:
            assert main(["--rollback", "chat", "--repository", str(repository)]) == 0


def test_the_defaults(tiny_llm: Path, tmp_path: Path) -> None:
    """One GPU, the checkpoint's own numbers and length, nothing quantised, no executor named; all by flags as well."""
    flags = [str(tiny_llm), "--name", "chat", "--task", "generate", "--engine", "vllm", "--no-health-check"]
    assert main([*flags, "--repository", str(tmp_path / "r")]) == 0
    assert arguments(tmp_path / "r") == {
        "model": str(tiny_llm),
        "dtype": "auto",
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "gpu_memory_utilization": 0.9,
        "kv_cache_dtype": "auto",
        "max_model_len": 128,
        "max_num_seqs": 256,
    }
    assert config(tmp_path / "r", "chat_vllm").parameters[tensors.HEALTH_CHECK_PARAMETER].string_value == "false"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32"), ("auto", "auto")]
)
def test_precisions_become_types(tiny_llm: Path, tmp_path: Path, precision: str, dtype: str) -> None:
    """The numbers in vLLM's own words, and several GPUs of one machine without Ray."""
    more = f'precision = "{precision}"\nvllm = {{ tensor_parallel_size = 2 }}'
    assert main([str(write(tmp_path, tiny_llm, more))]) == 0
    written = arguments(tmp_path / "repository")
    assert (written["dtype"], written["distributed_executor_backend"]) == (dtype, "mp")
    assert "quantization" not in written


def test_a_checkpoint_in_fp8_is_taken_as_it_is(tiny_llm: Path, tmp_path: Path) -> None:
    """Nothing is said of it to vLLM; one that is in int4 is refused beside precision fp8."""
    for method, status in (({"quant_method": "compressed-tensors", "format": "float-quantized-fp8"}, 0),
                           ({"quant_method": "fp8"}, 0), ({"quant_method": "awq"}, 2)):  # fmt: skip
        source = tmp_path / method["quant_method"]
        shutil.copytree(tiny_llm, source)
        content = json.loads((source / "config.json").read_text()) | {"quantization_config": method}
        (source / "config.json").write_text(json.dumps(content))
        repository = tmp_path / f"repository-{source.name}"
        assert main([str(write(tmp_path, source, 'precision = "fp8"', repository.name))]) == status
        if status == 0:
            assert "quantization" not in arguments(repository)
        else:
            assert not list(repository.glob("*"))


@pytest.fixture
def hub(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A hub with one model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with running_hub({"acme/tiny": tiny_llm}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def test_a_hub_id_stays_one_and_its_weights_stay_there(hub: HubStandIn, tmp_path: Path) -> None:
    """It is told the id and the commit, and this machine fetches no weights."""
    assert main([str(write(tmp_path, Path("acme/tiny")))]) == 0
    written = arguments(tmp_path / "repository")
    assert (written["model"], written["revision"]) == ("acme/tiny", COMMIT)
    assert any("tokenizer.json" in path for path in hub.downloads)
    assert not any(path.endswith(".safetensors") for path in hub.downloads)


def test_a_checkpoint_elsewhere_is_named_as_the_server_sees_it(tiny_llm: Path, tmp_path: Path) -> None:
    """The key decides, whatever the folder is called here."""
    assert main([str(write(tmp_path, tiny_llm, 'vllm = { checkpoint = "/checkpoints/tiny" }'))]) == 0
    assert arguments(tmp_path / "repository")["model"] == "/checkpoints/tiny"


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"engine": "vlm"}, ["engine is 'vlm'", "did you mean 'vllm'"]),
        ({"precision": "int4"}, ["does not go with engine 'vllm'", "quantised so", "vllm: fp32, fp16, fp8"]),
        ({"dialect": "cpu"}, ["dialect is not a known key"]),
        ({"quantisation": {}}, ["quantisation is not a known key"]),
        ({"quality": {"effort": "off"}}, ["quality is not a known key"]),
        ({"limits": {"max_batch": 0}}, ["limits.max_batch is 0", "at least 1"]),
        ({"limits": {"threads": 2}}, ["limits.threads is not a known key"]),
        ({"limits": {"kv_cache_dtype": "int8"}}, ["limits.kv_cache_dtype is 'int8'", "valid values"]),
        ({"vllm": {"gpu_memory_utilization": 1.2}}, ["vllm.gpu_memory_utilization is 1.2", "at most 1"]),
        ({"vllm": {"gpu_memory_utilization": 0}}, ["vllm.gpu_memory_utilization is 0", "above 0"]),
        ({"vllm": {"tensor_parallel_size": 0}}, ["vllm.tensor_parallel_size is 0", "at least 1"]),
        ({"vllm": {"nodes": 2, "tensor_parallel_size": 3}}, ["vllm.nodes is 2", "3 GPUs"]),
        ({"vllm": {"arguments": 3}}, ["vllm.arguments is 3", "must be a table"]),
        ({"vllm": {"arguments": {"tensor_paralel_size": 2}}}, ["arguments.tensor_paralel_size", "did you mean"]),
        ({"vllm": {"arguments": {"max_model_len": 9}}}, ["limits.max_context says", "set that instead"]),
        ({"vllm": {"arguments": {"hf_token": "hf_abc"}}}, ["vllm.arguments.hf_token is not taken", "HF_TOKEN"]),
        ({"vllm": {"arguments": {"enable_lora": True}}}, ["vllm.arguments.enable_lora is not taken"]),
        ({"vllm": {"arguments": {"seed": [1]}}}, ["vllm.arguments.seed is [1]", "a whole number"]),
        ({"precision": "fp8", "vllm": {"arguments": {"quantization": "awq"}}}, ["leave one of the two out"]),
    ],
)
def test_a_mistake_names_key_value_and_remedy(table: dict[str, Any], parts: list[str]) -> None:
    """What vLLM would refuse when it starts, a GPU machine later, is refused here."""
    with pytest.raises(SpecError) as caught:
        read_model({**MODEL, **table}, "models[0]")
    for part in parts:
        assert part in str(caught.value)
    assert "hf_abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("vllm = { tensor_parallel_size = 3 }", ["4 attention heads", "valid: 1, 2, 4"]),
        ("vllm = { pipeline_parallel_size = 4 }", ["has 2 layers", "at most 2"]),
        ("limits = { max_context = 4096 }", ["limits.max_context is 4096", "at most 128"]),
        ("[models.vllm.arguments]\nseed = 2026-11-21", ["vllm.arguments.seed", "a text, a number"]),
    ],
)
def test_what_the_checkpoint_cannot_do_leaves_nothing_behind(
    tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, parts: list[str]
) -> None:
    """One line, exit status 2, and no half of a model."""
    assert main([str(write(tmp_path, tiny_llm, more))]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    for part in parts:
        assert part in error
    repository = tmp_path / "repository"
    assert not repository.exists() or not list(repository.iterdir())


def test_numbers_of_arguments_have_no_bound_of_ours() -> None:
    """An argument in bytes may go beyond what Triton's own numbers hold."""
    spec = read_model({**MODEL, "vllm": {"arguments": {"kv_cache_memory_bytes": 40 << 30}}}, "")
    assert isinstance(spec, VllmSpec)
    assert spec.vllm.arguments["kv_cache_memory_bytes"] == 40 << 30
