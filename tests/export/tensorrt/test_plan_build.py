"""``fathom-export plan`` played whole against both versions of TensorRT's API."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from tests.export.tensorrt.played_tensorrt import MAGIC, PlayedTensorRT
from tritonclient.grpc import model_config_pb2

from fathom_export.cli import main
from fathom_export.tensorrt.half_precision import is_float32, write_half
from fathom_export.tensorrt.profiles import encoder_profiles
from fathom_server.engine.device_kv_cache import slot_fault
from fathom_server.engine.plan_passport import PlanPassport, hash_file


@pytest.fixture
def repository(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported repository."""
    return Path(shutil.copytree(exported, tmp_path / "models"))


@pytest.fixture
def with_encoder(repository: Path, exported_encoder: Path) -> Path:
    """The repository with an encoder beside the LLM."""
    return Path(shutil.copytree(exported_encoder, repository, dirs_exist_ok=True))


@pytest.fixture
def plan(repository: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``fathom-export plan`` over the repository; gives what was printed and checks the exit status."""

    def run(*arguments: str, status: int = 0) -> str:
        found = main(["plan", *arguments, "--repository", str(repository)])
        printed = capsys.readouterr()
        assert found == status, printed.err
        return printed.err if status else printed.out + printed.err

    return run


def head(plan: Path) -> dict[str, Any]:
    """What the played builder notes in a plan."""
    content = plan.read_bytes()
    assert content.startswith(MAGIC)
    noted: dict[str, Any] = json.loads(content[len(MAGIC) :].split(b"\n", 1)[0])
    return noted


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash."""
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_llms_plan_is_built_and_described(
    played: PlayedTensorRT, plan: Callable[..., str], repository: Path, tmp_path: Path
) -> None:
    """Three profiles, a strongly typed float16 network, an aliased cache, a timing cache, progress, and a passport."""
    shown = plan("chat", "--precision", "fp16")
    folder = repository / "chat" / "1"
    assert "chat: wrote chat" in shown
    assert f"chat: TensorRT {played.trt.__version__}: Building engine" in shown
    passport = PlanPassport.load(folder / "plan.json")
    assert passport.built_with.tensorrt == played.trt.__version__
    assert passport.built_with.compute_capability == (9, 0)
    assert passport.onnx_sha256 == hash_file(folder / "model.onnx")
    assert passport.weights_sha256 == hash_file(folder / "model.onnx.data")
    assert passport.plan_bytes == (folder / "model.plan").stat().st_size
    assert [profile.name for profile in passport.profiles] == ["prefill", "decode_one", "decode_many"]
    built = head(folder / "model.plan")
    assert [shapes["input_ids"] for shapes in built["profiles"]] == [
        [[1, 1], [1, 16], [3, 16]],
        [[1, 1], [1, 1], [1, 1]],
        [[2, 1], [3, 1], [3, 1]],
    ]
    assert built["profiles"][0]["past.0.key"] == [[1, 2, 64, 16], [1, 2, 64, 16], [3, 2, 64, 16]]
    assert built["flags"] == []
    calls = played.stand_in.calls
    assert calls.index("OnnxParser.supports_operator") < calls.index("OnnxParser.supports_model_v2")
    assert calls.index("OnnxParser.supports_model_v2") < calls.index("OnnxParser.parse_from_file")
    assert calls.count("Builder.create_network") == 2
    [timings] = (tmp_path / "cache").glob(f"timing-{played.trt.__version__}-sm90-NVIDIA-H100.cache")
    assert timings.read_bytes() == f"timings of {played.trt.__version__}: one build".encode()
    assert not list(tmp_path.glob(".fathom-staging-*"))


def test_every_option_reaches_the_builder(played: PlayedTensorRT, plan: Callable[..., str], repository: Path) -> None:
    """Each flag of the command sets what TensorRT calls by another name; the passport keeps them all."""
    flags = ["--version-compatible", "--refit", "--weight-streaming", "--sparsity", "--workspace", "1048576"]
    plan("chat", *flags, "--optimization-level", "5", "--hardware-compatibility", "ampere_plus")
    built = head(repository / "chat" / "1" / "model.plan")
    assert built["flags"] == ["REFIT", "SPARSE_WEIGHTS", "VERSION_COMPATIBLE", "WEIGHT_STREAMING"]
    for call in (
        "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.builder_optimization_level =",
        "IBuilderConfig.hardware_compatibility_level =",
        "IBuilderConfig.progress_monitor =",
    ):
        assert call in played.stand_in.calls
    options = PlanPassport.load(repository / "chat" / "1" / "plan.json").options
    assert options.flags() == (
        "--precision fp16 --workspace 1048576 --optimization-level 5 --hardware-compatibility ampere_plus "
        "--version-compatible --refit --weight-streaming --sparsity"
    )


def test_an_encoders_plan_is_served_by_tritons_tensorrt(
    played: PlayedTensorRT, plan: Callable[..., str], with_encoder: Path
) -> None:
    """The encoder behind the ensemble gets the plan, and its config names the backend, the GPU and the profiles."""
    plan("minilm")
    folder = with_encoder / "minilm_encoder"
    built = head(folder / "1" / "model.plan")
    assert built["profiles"] == [
        {name: [[1, 1], [4, 24], [4, 48]] for name in ("input_ids", "attention_mask")},
    ]
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(config.instance_group[0].profile) == ["0"]
    assert not config.parameters
    noted = json.loads((folder / "1" / "passport.json").read_text())["files"]
    for name in [name for name in noted if name.startswith("minilm_encoder/")]:
        assert noted[name] == hash_file(with_encoder / name), name
    assert "up to date" in plan("minilm")
    assert "--strip is for LLMs" in plan("minilm", "--strip", status=2)
    refusal = "minilm_encoder holds a graph in fp32, from which no fp8 plan is built"
    assert refusal in plan("minilm", "--precision", "fp8", status=2)


def test_what_is_up_to_date_is_not_built_again(
    played: PlayedTensorRT, plan: Callable[..., str], repository: Path
) -> None:
    """Nothing is built twice; another option, another graph or --force build again."""
    plan("chat")
    builds = "Builder.build_serialized_network"
    assert "chat: up to date" in plan("chat")
    assert played.stand_in.calls.count(builds) == 1
    plan("chat", "--force")
    plan("chat", "--sparsity")
    assert played.stand_in.calls.count(builds) == 3
    (repository / "chat" / "1" / "plan.json").write_text("{}")
    plan("chat", "--sparsity")
    assert played.stand_in.calls.count(builds) == 4


def test_timings_are_kept_and_those_of_another_version_left_aside(
    played: PlayedTensorRT, plan: Callable[..., str], tmp_path: Path
) -> None:
    """A second build begins with the first one's timings; a file of another TensorRT is replaced."""
    timings = tmp_path / "deep" / "timings"
    plan("chat", "--timing-cache", str(timings))
    plan("chat", "--timing-cache", str(timings), "--force")
    assert timings.read_bytes() == f"timings of {played.trt.__version__}: one build one build".encode()
    timings.write_bytes(b"timings of 9.9.9.9:")
    plan("chat", "--timing-cache", str(timings), "--force")
    assert timings.read_bytes() == f"timings of {played.trt.__version__}: one build".encode()


def test_an_unknown_operator_is_refused_before_parsing(
    played: PlayedTensorRT, plan: Callable[..., str], repository: Path
) -> None:
    """Operator, node and remedy are listed, and the repository stays as it was."""
    before = files(repository)
    played.unknown = {"TensorScatter"}
    error = plan("chat", status=2)
    assert f"TensorRT {played.trt.__version__} does not take 4 nodes" in error
    assert "TensorScatter at layer.0.attention.key_cache: unknown to the parser; use TensorRT 10.15 or later" in error
    assert "OnnxParser.parse_from_file" not in played.stand_in.calls
    assert files(repository) == before


def test_a_refused_node_is_listed_with_the_parsers_words(played: PlayedTensorRT, plan: Callable[..., str]) -> None:
    """What the parser says about a node reaches the user whole."""
    played.refused = {"RotaryEmbedding": "attribute interleaved must be 0 (a made-up reason)"}
    error = plan("chat", status=2)
    assert "RotaryEmbedding at layer.0.attention.q.rotated: attribute interleaved must be 0 (a made-up" in error
    assert "UNSUPPORTED_NODE_ATTR" in error


def test_operators_of_one_runtime_are_refused_with_what_to_export(
    played: PlayedTensorRT, plan: Callable[..., str], repository: Path
) -> None:
    """An operator of ONNX Runtime's own is named with its domain and the remedy."""
    path = repository / "chat" / "1" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)
    onnx.save(model, path)
    error = plan("chat", status=2)
    assert f"com.microsoft.{model.graph.node[0].op_type} at {model.graph.node[0].name}: unknown to the parser" in error
    assert "export with --dialect portable (an LLM) or --precision fp32 (an encoder)" in error


def test_the_builders_errors_reach_the_user_whole(
    played: PlayedTensorRT, plan: Callable[..., str], repository: Path
) -> None:
    """What went to the logger and to the error recorder is printed; nothing half-written stays."""
    before = files(repository)
    played.build_error = "Error Code 10: no implementation for node {layer.0.mlp}\nwith a second line"
    error = plan("chat", status=2)
    assert played.build_error in error
    assert "INVALID_STATE: a reason from the recorder" in error
    assert files(repository) == before


def test_ctrl_c_ends_the_build_at_its_next_step(
    played: PlayedTensorRT, plan: Callable[..., str], repository: Path, tmp_path: Path
) -> None:
    """An interrupt stops TensorRT through its monitor, exits with 130 and leaves the repository as it was."""
    before = files(repository)
    steps = []

    def interrupt() -> None:
        steps.append(1)
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # the main thread takes the signal meanwhile

    played.on_step = interrupt
    assert "interrupted" in plan("chat", status=130)
    assert len(steps) < 3
    assert files(repository) == before
    assert not list(tmp_path.glob(".fathom-staging-*"))


def test_fp8_is_refused_on_older_gpus_and_for_other_graphs(
    install: Callable[..., PlayedTensorRT], version: str, plan: Callable[..., str], repository: Path
) -> None:
    """An A100 takes no fp8 plan; a graph that is not in fp8 is sent back with the command that makes one."""
    install(version, capability=(8, 0), gpu="NVIDIA A100")
    error = plan("chat", "--precision", "fp8", status=2)
    assert "chat holds a graph in the portable dialect and fp32, from which no fp8 plan is built" in error
    assert f"--name chat --task generate --dialect portable --precision fp8 --repository {repository}" in error
    engine = repository / "chat" / "1" / "engine.json"
    engine.write_text(engine.read_text().replace('"fp32"', '"fp8"'))
    error = plan("chat", status=2)
    assert "fp8, which needs compute capability 8.9 or later, but the NVIDIA A100 here has 8.0" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "has no model 'nothing' with a model.onnx; models that have one: chat"),
        (["chat", "--workspace", "0"], "--workspace is 0"),
        (["chat", "--optimization-level", "9"], "--optimization-level is 9; valid: 0 to 5"),
        (["chat", "--strip"], "--strip needs a graph whose weights are in fp16 already"),
    ],
)
def test_a_users_mistake_is_one_line(
    install: Callable[..., PlayedTensorRT], plan: Callable[..., str], arguments: list[str], words: str
) -> None:
    """What cannot be built is told in a line with what to do."""
    install("11.4.0.106")
    error = plan(*arguments, status=2)
    assert words in error.splitlines()[-1]


def test_without_tensorrt_the_user_learns_where_to_get_it(
    install: Callable[..., PlayedTensorRT], plan: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without the package is told so, not shown a traceback."""
    install("11.4.0.106")
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    assert "needs the package tensorrt, which cannot be imported" in plan("chat", status=2)


def test_half_precision_keeps_the_answers(exported_encoder: Path, tmp_path: Path) -> None:
    """An encoder lowered to float16 gives float32 embeddings in nearly the same direction, by the same names."""
    source, lowered = exported_encoder / "minilm_encoder" / "1" / "model.onnx", tmp_path / "model.onnx"
    assert is_float32(source)
    write_half(source, lowered)
    assert not is_float32(lowered)
    onnx.checker.check_model(str(lowered), full_check=True)
    rng = np.random.default_rng(0)
    feeds = {"input_ids": rng.integers(5, 200, (4, 48)), "attention_mask": np.ones((4, 48), np.int64)}
    feeds["attention_mask"][1, 9:] = 0
    before, after = (
        ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for graph in (source, lowered)
    )
    assert after.dtype == np.float32
    cosines = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert cosines.min() > 0.999


def test_versions_that_share_their_weights_are_lowered(exported_encoder: Path, tmp_path: Path) -> None:
    """Weights that are linked into another version, as where serving alone changed, are read all the same."""
    earlier, version = tmp_path / "1", tmp_path / "2"
    shutil.copytree(exported_encoder / "minilm_encoder" / "1", earlier)
    shutil.copytree(earlier, version, copy_function=os.link)
    write_half(version / "model.onnx", tmp_path / "model.onnx")
    assert not is_float32(tmp_path / "model.onnx")
    data = "model.onnx.data"
    assert (version / data).read_bytes() == (earlier / data).read_bytes()
    assert not (version / data).samefile(earlier / data)


def test_long_texts_have_a_profile_of_their_own() -> None:
    """Short texts do not pay for kernels chosen for long ones; a batch alone has one dimension."""
    short, whole = encoder_profiles({"input_ids": 2, "lengths": 1}, 8, 512)
    assert short.shapes["input_ids"].shapes() == ((1, 1), (8, 64), (8, 128))
    assert whole.shapes["input_ids"].shapes() == ((1, 1), (8, 256), (8, 512))
    assert whole.shapes["lengths"].shapes() == ((1,), (8,), (8,))


def test_a_slot_must_begin_where_tensorrt_reads() -> None:
    """A context that would put slots at odd addresses is refused with the next one that does not."""
    assert slot_fault(2, 64, 32) is None
    assert slot_fault(1, 70, 32) == (
        "max_context is 70, but a slot of this model begins at a multiple of 256 bytes only if it is a multiple of 8; "
        "export again with --max-context 64"
    )
