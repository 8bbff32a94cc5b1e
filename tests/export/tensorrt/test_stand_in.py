"""The stand-in refuses what the real bindings lack, in both versions."""

from typing import Any

import pytest
from tests.export.tensorrt.bindings import TENSORRT_VERSIONS, describe_tensorrt
from tests.export.tensorrt.stand_in import StandIn


@pytest.fixture(params=TENSORRT_VERSIONS)
def trt(request: pytest.FixtureRequest) -> Any:
    """The module, with a logger's and a builder's construction played."""
    behaviours = {"Builder.create_network": lambda builder, flags=0: flags}
    return StandIn(describe_tensorrt(request.param), behaviours).module


def new_logger(trt: Any) -> Any:
    """A logger as a user writes it."""

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self.lines.append(msg)

    return Logger()


def test_members_are_the_real_ones(trt: Any) -> None:
    """What only version 10 has is there in 10 and missing in 11; numbers differ, names do not."""
    is_ten = trt.__version__.startswith("10.")
    assert hasattr(trt.BuilderFlag, "FP16") is is_ten
    assert hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH") is is_ten
    assert hasattr(trt.OnnxParser, "supports_model") is is_ten
    assert hasattr(trt.ICudaEngine, "device_memory_size") is is_ten
    assert int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == (1 if is_ten else 0)
    assert hasattr(trt.INetworkDefinition, "add_kv_cache_update")
    with pytest.raises(AttributeError):
        _ = trt.BuilderFlag.FASTER
    with pytest.raises(AttributeError):
        _ = trt.build_everything


def test_flags_are_no_integers(trt: Any) -> None:
    """As in pybind11, an enum member must be converted before it is shifted."""
    with pytest.raises(TypeError):
        _ = 1 << trt.BuilderFlag.REFIT


@pytest.mark.parametrize(
    "call",
    [
        lambda trt, builder: builder.create_network(1, 2),
        lambda trt, builder: builder.create_network(mode=1),
        lambda trt, builder: builder.create_network("1"),
        lambda trt, builder: builder.create_network(1.0),
        lambda trt, builder: trt.Builder(),
        lambda trt, builder: trt.Builder(builder),
        lambda trt, builder: trt.IBuilderConfig(),
        lambda trt, builder: trt.ICudaEngine(),
    ],
)
def test_wrong_arguments_are_refused(trt: Any, call: Any) -> None:
    """Too many, unknown, of another type, missing, or for a class that only TensorRT makes."""
    builder = trt.Builder(new_logger(trt))
    assert builder.create_network(flags=1) == 1
    with pytest.raises(TypeError):
        call(trt, builder)


def test_unknown_attributes_cannot_be_set(trt: Any) -> None:
    """A misspelt property is an error, and so is one that cannot be written."""
    builder = trt.Builder(new_logger(trt))
    builder.max_threads = 2
    with pytest.raises(AttributeError):
        builder.max_thread = 2
    with pytest.raises(AttributeError):
        builder.logger = 3
    with pytest.raises(AttributeError):
        builder.build_engine()


def test_a_subclass_must_construct_its_base(trt: Any) -> None:
    """pybind11 refuses an object whose C++ half was never made."""

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="__init__"):
        Logger()
