"""What of a repository a plan is built from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fathom_export.errors import PlanError
from fathom_export.tensorrt.profiles import decoder_profiles, encoder_profiles
from fathom_server.engine.device_kv_cache import slot_fault
from fathom_server.engine.plan_passport import PlanPrecision, PlanProfile
from fathom_server.engine.settings import ENGINE_FILE, GRAPH_FILE, EngineSettings
from fathom_server.errors import SettingsError

CONFIG_FILE: Final = "config.pbtxt"
_ENCODER_BACKENDS: Final = ("onnxruntime", "tensorrt")
_HALF_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class PlanSubject:
    """A graph in a version's folder, ready to be built: ``precision`` is the graph's own, ``name`` the Triton model."""

    name: str
    folder: Path
    precision: str
    profiles: tuple[PlanProfile, ...]
    is_decoder: bool

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / GRAPH_FILE


def find_subject(model: str, repository: Path, precision: PlanPrecision | None) -> PlanSubject:
    """The graph of a model: an LLM's own, or the encoder behind an ensemble.

    Raises PlanError where there is none that TensorRT could take in this precision (None: the one that suits it), with
    the command that mends it.
    """
    name = model if _version_folder(repository / model) is not None else f"{model}_encoder"
    folder = _version_folder(repository / name)
    if folder is None:
        raise PlanError(
            f"{repository} has no model {model!r} with a {GRAPH_FILE}; models that have one: "
            f"{', '.join(_models(repository)) or 'none; export one with fathom-export first'}"
        )
    if (folder / ENGINE_FILE).is_file():
        return _decoder(name, folder, precision)
    return _encoder(name, folder, repository, precision)


def _decoder(name: str, folder: Path, precision: PlanPrecision | None) -> PlanSubject:
    try:
        settings = EngineSettings.load(folder)
    except SettingsError as error:
        raise PlanError(str(error)) from error
    graph = settings.graph
    wanted = precision or ("fp8" if graph.precision == "fp8" else "fp16")
    valid = {"fp8": ("fp8",), "fp16": ("fp16", "fp32")}[wanted]
    if graph.dialect != "portable" or graph.precision not in valid:
        raise PlanError(
            f"{name} holds a graph in the {graph.dialect} dialect and {graph.precision}, from which no {wanted} plan "
            f"is built; export it again: {export_command(folder, 'generate', wanted)}"
        )
    fault = slot_fault(graph.kv_heads, graph.max_context, graph.head_dim * _HALF_BYTES)
    if fault is not None:
        raise PlanError(fault)
    return PlanSubject(name, folder, graph.precision, decoder_profiles(settings), is_decoder=True)


def _encoder(name: str, folder: Path, repository: Path, precision: PlanPrecision | None) -> PlanSubject:
    import onnx

    config = read_config(repository / name)
    if config.backend not in _ENCODER_BACKENDS:
        raise PlanError(f"{name} runs on the backend {config.backend!r}; plans are built of LLMs and text encoders")
    tokenizer = read_config(repository / f"{name.removesuffix('_encoder')}_tokenizer")
    max_context = int(tokenizer.parameters["max_context"].string_value)
    graph = onnx.load(folder / GRAPH_FILE, load_external_data=False).graph
    own = "fp8" if any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in graph.initializer) else "fp32"
    if precision is not None and (precision == "fp8") != (own == "fp8"):
        raise PlanError(
            f"{name} holds a graph in {own}, from which no {precision} plan is built; "
            + (
                f"leave --precision out, or export it again: {export_command(folder, 'embed', 'fp8')}"
                if precision == "fp8"
                else "build it with --precision fp8"
            )
        )
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = {
        value.name: len(value.type.tensor_type.shape.dim) for value in graph.input if value.name not in initializers
    }
    profiles = encoder_profiles(inputs, config.max_batch_size, max_context)
    return PlanSubject(name, folder, own, profiles, is_decoder=False)


def export_command(folder: Path, task: str, precision: str) -> str:
    """The command that exports the model of a version's folder again, its source from the passport beside it."""
    source = "SOURCE"
    try:
        given = json.loads((folder / "passport.json").read_text(encoding="utf-8"))["origin"]["source"]["given"]
        source = given if isinstance(given, str) else source
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # a repository from elsewhere: the reader knows what SOURCE is
    model, dialect = folder.absolute().parent, " --dialect portable" if task == "generate" else ""
    name = model.name.removesuffix("_encoder")
    return (
        f"fathom-export {source} --name {name} --task {task}{dialect} --precision {precision} "
        f"--repository {model.parent}"
    )


def read_config(folder: Path) -> Any:
    """A model's ``config.pbtxt`` as Triton's protobuf; raises PlanError naming the file."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    path = folder / CONFIG_FILE
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise PlanError(f"{path} cannot be read ({error}); export the model again with fathom-export") from error


def _version_folder(model: Path) -> Path | None:
    """The served version if it holds a graph, else the latest that does."""
    from fathom_export.repository.versions import served_version

    if not model.is_dir():
        return None
    versions = {int(path.name): path for path in model.iterdir() if path.name.isdigit()}
    graphs = {version: path for version, path in versions.items() if (path / GRAPH_FILE).is_file()}
    served = served_version(model.parent, (model.name,))
    return graphs.get(served if served in graphs else max(graphs, default=0))


def _models(repository: Path) -> list[str]:
    folders = sorted(repository.iterdir()) if repository.is_dir() else []
    return [path.name for path in folders if _version_folder(path) is not None]
