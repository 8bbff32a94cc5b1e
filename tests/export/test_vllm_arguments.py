"""The table of vLLM's arguments: how it is read out of vLLM's source, and that all we write stands in it."""

import os
import zipfile
from pathlib import Path
from typing import get_args

import pytest

from fathom_export.errors import SourceError, SpecError
from fathom_export.repository.vllm_models import ONLINE_FP8
from fathom_export.spec.vllm import DECIDED, DTYPES, REFUSED, KvCacheDtype
from fathom_export.vllm.argument_source import ARGUMENTS_FILE, SAMPLING_FILE, main, read_wheel
from fathom_export.vllm.arguments import TABLE_FILE, Argument, ArgumentTable, known_arguments
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.vllm.sampling_json import sampling_json

WHEEL = os.environ.get("FATHOM_VLLM_WHEEL", "")

SOURCE = """
from enum import Enum, IntEnum
Kind = Literal["a", "b"]
Wider = Kind | None
class Colour(Enum):
    RED = "red"
class Level(IntEnum):
    LOW = 0
class EngineArgs:
    '''Arguments.'''
    text: str = ""
    count: int | None = None
    share: float = 0.9
    kind: Wider = None
    colour: Colour = Colour.RED
    level: Level = 0
    open_kind: Kind | str = "a"
    sizes: list[int] | None = None
    ranks: Literal[1, 8, 16] = 1
    config: SomeConfig = field(default_factory=SomeConfig)
    quoted: "dict[str, Any] | None" = None
    whatever: Any = None
    _hidden: int = 0
    worker: str | type[Worker] = "w"
class AsyncEngineArgs(EngineArgs):
    log: bool = False
"""
SAMPLING = "class SamplingParams:\n    n: int = 1\n    _own: int = 0\n    top_p: float = 1.0\n"


def wheel(folder: Path, **files: str) -> Path:
    """A wheel of vLLM with such sources."""
    path = folder / "vllm-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in files.items():
            archive.writestr({"arguments": ARGUMENTS_FILE, "sampling": SAMPLING_FILE}[name], source)
    return path


def test_annotations_become_kinds(tmp_path: Path) -> None:
    """Aliases, unions, enums, literals and quoted annotations are followed; private fields are left out."""
    table = read_wheel(wheel(tmp_path, arguments=SOURCE, sampling=SAMPLING))
    assert table.version == "9.9.9"
    assert table.sampling == ("n", "top_p")
    assert table.arguments == {
        "text": Argument(("text",)),
        "count": Argument(("null", "whole")),
        "share": Argument(("number",)),
        "kind": Argument(("choice", "null"), ("a", "b")),
        "colour": Argument(("text",)),
        "level": Argument(("whole",)),
        "open_kind": Argument(("choice", "text"), ("a", "b")),
        "sizes": Argument(("list", "null")),
        "ranks": Argument(("whole",), (1, 8, 16)),
        "config": Argument(("table",)),
        "quoted": Argument(("null", "table")),
        "whatever": Argument(("any",)),
        "worker": Argument(("text",)),
        "log": Argument(("flag",)),
    }
    assert ArgumentTable.from_json(table.as_json()) == table


def test_what_is_no_vllm_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no wheel, another package's wheel and a vLLM of another form are named in one line each."""
    (tmp_path / "no.whl").write_text("no")
    other = tmp_path / "other-1-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("other/x.py", "")
    strange = wheel(tmp_path, arguments="class Other: ...", sampling=SAMPLING)
    for path, part in ((tmp_path / "no.whl", "cannot be read"), (other, "holds no"), (strange, "no class EngineArgs")):
        before = TABLE_FILE.read_bytes()
        assert main([str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert part in error
        assert TABLE_FILE.read_bytes() == before
    with pytest.raises(SourceError, match="holds no"):
        read_wheel(other)


@pytest.mark.skipif(not WHEEL, reason="FATHOM_VLLM_WHEEL names no wheel (pip download --no-deps vllm)")
def test_the_table_is_that_of_the_wheel() -> None:
    """The checked-in table is, byte for byte, what the wheel's source says."""
    assert TABLE_FILE.read_text(encoding="utf-8") == read_wheel(Path(WHEEL)).as_json()


def test_all_that_is_written_is_known_to_vllm() -> None:
    """Every argument that a spec decides or refuses is one of vLLM's, and every value that it may write is taken."""
    table = known_arguments()
    for name in (*DECIDED, *REFUSED, "quantization", "revision"):
        assert name in table.arguments
    for name, values in {
        "dtype": tuple(DTYPES.values()),
        "kv_cache_dtype": get_args(KvCacheDtype),
        "quantization": (ONLINE_FP8,),
        "distributed_executor_backend": ("mp", "ray"),
    }.items():
        for value in values:
            table.check(name, value, name)
            assert value in table.arguments[name].choices


def test_all_sampling_parameters_are_known_to_vllm() -> None:
    """Every name that a request may send stands in vLLM's SamplingParams."""
    import json

    sampling = SamplingParameters(seed=1, structured_outputs=StructuredOutput("json_object"), temperature=1.0)
    assert set(json.loads(sampling_json(sampling, 8, 0))) <= set(known_arguments().sampling)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("tensor_parallel", 2, "did you mean"),
        ("zzzz", 2, "is no engine argument of vLLM"),
        ("seed", "1", "it must be a whole number"),
        ("seed", True, "it must be a whole number"),
        ("seed", 1.5, "it must be a whole number"),
        ("enforce_eager", 1, "it must be true or false"),
        ("compilation_config", 3, "it must be a table"),
        ("scheduling_policy", "prio", "did you mean 'priority'"),
        ("scheduling_policy", "x", "valid: fcfs, priority"),
        ("max_lora_rank", 7, "valid: 1, 8, 16"),
    ],
)
def test_a_value_that_vllm_does_not_take_is_named(name: str, value: object, part: str) -> None:
    """Key, value, remedy, and the version of vLLM that says so."""
    with pytest.raises(SpecError) as caught:
        known_arguments().check(name, value, f"vllm.arguments.{name}")
    message = str(caught.value)
    assert message.startswith(f"vllm.arguments.{name} is")
    assert part in message
    assert known_arguments().version in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 3),
        ("gpu_memory_utilization", 1),
        ("quantization", "a-plugins-own"),
        ("block_size", None),
        ("compilation_config", {"mode": 3}),
        ("hf_overrides", {}),
        ("cudagraph_capture_sizes", [1, 2]),
        ("optimization_level", 2),
    ],
)
def test_a_value_that_vllm_takes_is_taken(name: str, value: object) -> None:
    """Whole numbers do for numbers, and any text where plugins may bring more."""
    known_arguments().check(name, value, name)
