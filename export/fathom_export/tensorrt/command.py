"""``fathom-export plan``: a TensorRT plan of a model that the repository holds."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from fathom_server.engine.plan_passport import HardwareCompatibility, PlanOptions, PlanPrecision
from fathom_server.errors import SettingsError

_SWITCHES = {
    "version_compatible": "a plan that later TensorRT versions of the same major load too",
    "refit": "a plan whose weights can be changed later",
    "strip": "a plan without weights, which are read from model.onnx when it is loaded (LLMs)",
    "weight_streaming": "a plan whose weights need not all fit into the GPU's memory",
    "sparsity": "use sparse kernels where weights are 2:4 sparse",
}


def main(argv: Sequence[str]) -> int:
    """Build a plan as the arguments say; raises ExportError."""
    from fathom_export.errors import SpecError

    arguments = parser().parse_args(argv)
    try:
        options = PlanOptions(
            precision=arguments.precision or "fp16",
            workspace_bytes=arguments.workspace,
            optimization_level=arguments.optimization_level,
            hardware_compatibility=arguments.hardware_compatibility,
            **{name: getattr(arguments, name) for name in _SWITCHES},
        )
    except SettingsError as error:
        raise SpecError(str(error)) from error

    from fathom_export.progress import describe, open_display
    from fathom_export.tensorrt.plan import build_plan

    with open_display() as display:
        outcome = build_plan(
            arguments.model,
            arguments.repository,
            options,
            display,
            precision=arguments.precision,
            timing_cache=arguments.timing_cache,
            force=arguments.force,
        )
        display.end(outcome)
    print(describe(outcome))  # noqa: T201 - this is a command
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of ``fathom-export plan``."""
    parser = argparse.ArgumentParser(
        prog="fathom-export plan",
        description="Build a TensorRT plan of a model in the repository, on the GPU that is to serve it. An LLM must "
        "be exported with --dialect portable.",
        epilog="Example: fathom-export plan chat --repository model_repository --precision fp16",
    )
    parser.add_argument("model", help="the model's name in Triton")
    parser.add_argument("--repository", type=Path, required=True, help="model repository that holds it")
    parser.add_argument(
        "--precision", choices=get_args(PlanPrecision), help="default: fp8 for a graph in fp8, else fp16"
    )
    parser.add_argument(
        "--workspace", type=int, metavar="BYTES", help="scratch memory of one layer; default: the GPU's"
    )
    parser.add_argument(
        "--optimization-level", type=int, metavar="N", help="0 (fast build) to 5 (fast plan); default: TensorRT's"
    )
    parser.add_argument(
        "--hardware-compatibility",
        choices=get_args(HardwareCompatibility),
        default="none",
        help="other GPUs that the plan is to run on; default: none",
    )
    for name, text in _SWITCHES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="where timings are kept between builds; default: a file for each TensorRT and GPU in $FATHOM_CACHE",
    )
    parser.add_argument("--force", action="store_true", help="build what is up to date, too")
    return parser
