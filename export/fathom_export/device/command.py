"""``fathom-export --target device``: one LLM by flags, or all ``[[devices]]`` of a bundle file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fathom_export.errors import SpecError
from fathom_export.quantise.table import DEVICE_TARGET
from fathom_export.spec import DEFAULT_BUNDLE
from fathom_export.spec.bundle import read_devices
from fathom_export.spec.device import DEVICE_TASK, DeviceSpec
from fathom_export.spec.key import keys_of, read_table
from fathom_export.spec.model_spec import SPECS

_POSITIONAL: Final = "source"


def main(argv: Sequence[str]) -> int:
    """Write the bundles; returns the exit status. Raises ExportError."""
    arguments = _parser().parse_args(argv)
    if arguments.task not in (None, DEVICE_TASK):
        raise SpecError(
            f"task {arguments.task!r} does not go with target {DEVICE_TARGET!r}; valid tasks: {DEVICE_TASK}"
        )
    flags = {name: value for name in _flags() if (value := getattr(arguments, name)) is not None}
    source = arguments.source or DEFAULT_BUNDLE
    if source.endswith(".toml"):
        if flags:
            given = ", ".join(f"--{name.replace('_', '-')}" for name in flags)
            raise SpecError(f"{given} cannot be given with a bundle; write it into {source}")
        base, specs = Path(source).resolve().parent, read_devices(Path(source))
    else:
        base, specs = Path(), (DeviceSpec(**read_table(DeviceSpec, {**flags, _POSITIONAL: source}, "")),)

    from fathom_export.device.bundle import MB, write_device_bundle

    for spec in specs:
        bundle = write_device_bundle(spec, base)
        memory = bundle.memory
        print(  # noqa: T201
            f"{spec.name}: {bundle.form}, {bundle.size_bytes / MB:.1f} MB on disk, {memory.peak_bytes / MB:.1f} MB of "
            f"memory ({memory.baseline_bytes / MB:.1f} MB of it Python and ONNX Runtime) with {spec.max_context} "
            f"tokens: {bundle.folder}"
        )
    return 0


def _flags() -> dict[str, Any]:
    return {name: key for name, key in keys_of(DeviceSpec).items() if name != _POSITIONAL}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fathom-export --target device",
        description="Write LLMs for ONNX Runtime alone, within a budget of size and memory.",
        epilog="Example: fathom-export --target device org/model --name phone --max-size-mb 400 --max-memory-mb 900",
    )
    parser.add_argument("--target", required=True, choices=(DEVICE_TARGET,))
    parser.add_argument(
        "source", nargs="?", help="a bundle (*.toml) with [[devices]], a checkpoint's folder or a hub id"
    )
    parser.add_argument("--task", choices=list(SPECS), help=f"what the model does; only {DEVICE_TASK} is for devices")
    for name, key in _flags().items():
        flag, text = f"--{name.replace('_', '-')}", key.key.help
        if key.choices:
            parser.add_argument(flag, choices=key.choices, help=text)
        else:
            parser.add_argument(flag, type=key.kind, metavar=None if key.kind is str else "N", help=text)
    return parser
