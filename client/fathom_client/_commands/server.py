"""``status``, ``models``, ``wait``, ``load`` and ``unload``: the server and what it holds."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from fathom_client._commands import exit_status
from fathom_client._commands.command import add_command
from fathom_client._commands.connection import open_client
from fathom_client._commands.console import print_table

if TYPE_CHECKING:
    from fathom_client._results import ModelInfo, ModelMetadata, TensorMetadata


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the commands."""
    added = add_command(commands, "status", status, "show the server and its models; exit 1 if it is not ready", "")
    added.add_argument("--json", action="store_true", help="print one JSON object instead")

    added = add_command(commands, "models", models, "list the models, or what one takes and gives", "", "chat")
    added.add_argument("model", metavar="MODEL", nargs="?", help="the model whose inputs and outputs to show")
    added.add_argument("--json", action="store_true", help="print a JSON object a line instead")


def status(options: argparse.Namespace) -> int:
    """Print what the server is and how its models are; the exit status tells whether it is ready."""
    with open_client(options) as client:
        server, is_ready, infos = client.server_metadata(), client.is_ready(), client.models()
    if options.json:
        print(json.dumps({**asdict(server), "is_ready": is_ready, "models": [asdict(info) for info in infos]}))
    else:
        print(f"{server.name} {server.version} at {options.url} is {'ready' if is_ready else 'not ready'}")
        print_table([[*_model_cells(info), " ".join(info.reason.split())] for info in infos])
    return exit_status.DONE if is_ready else exit_status.SERVER_FAULT


def models(options: argparse.Namespace) -> int:
    """Print the models of the server's repository, or one model's tensors."""
    with open_client(options) as client:
        if options.model is not None:
            metadata = client.model_metadata(options.model)
            if options.json:
                print(json.dumps(asdict(metadata)))
            else:
                _print_metadata(metadata)
            return exit_status.DONE
        infos = client.models()
    if options.json:
        for info in infos:
            print(json.dumps(asdict(info)))
    else:
        print_table([_model_cells(info) for info in infos])
    return exit_status.DONE


def _model_cells(info: "ModelInfo") -> list[str]:
    return [info.name, (info.version or "-").rjust(3), info.state or "NOT LOADED"]


def _print_metadata(metadata: "ModelMetadata") -> None:
    print(f"{metadata.name} ({metadata.platform}), versions {', '.join(metadata.versions)}")
    print_table([*_tensor_rows("input", metadata.inputs), *_tensor_rows("output", metadata.outputs)])


def _tensor_rows(side: str, tensors: "tuple[TensorMetadata, ...]") -> list[list[str]]:
    return [[side, each.name, each.datatype, str(list(each.shape))] for each in tensors]
