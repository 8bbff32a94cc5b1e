"""``status``, ``models``, ``wait``, ``load`` and ``unload``: the server and what it holds."""

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from fathom_client import metric_names
from fathom_client._commands import exit_status
from fathom_client._commands.command import add_command
from fathom_client._commands.connection import open_client
from fathom_client._commands.console import harmless, print_json, print_table
from fathom_client._commands.gauges import COLUMNS, read_gauges

if TYPE_CHECKING:
    from fathom_client._results import ModelInfo, ModelMetadata, Readiness, TensorMetadata
    from fathom_client._statistics import ModelStatistics


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the commands."""
    added = add_command(
        commands,
        "status",
        status,
        "show the server and its models; exit 1 if it is not ready",
        "",
        "--metrics localhost:8002",
    )
    added.add_argument(
        "--metrics", metavar="HOST:PORT", help="Triton's metrics port: also show what runs and waits at this moment"
    )
    added.add_argument("--json", action="store_true", help="print one JSON object instead")

    added = add_command(commands, "models", models, "list the models, or what one takes and gives", "", "chat")
    added.add_argument("model", metavar="MODEL", nargs="?", help="the model whose inputs and outputs to show")
    added.add_argument("--json", action="store_true", help="print a JSON object a line instead")

    added = add_command(
        commands, "wait", wait, "wait until the server, or one of its models, is ready", "", "chat --for 600"
    )
    added.add_argument("model", metavar="MODEL", nargs="?", help="the model (default: all)")
    added.add_argument(
        "--for", type=float, default=60.0, dest="for_s", metavar="SECONDS", help="give up then (default: %(default)g)"
    )

    added = add_command(
        commands, "load", load, "load models, on a server that runs with --model-control-mode=explicit", "chat minilm"
    )
    added.add_argument("models", metavar="MODEL", nargs="+", help="the models, in this order")

    added = add_command(
        commands, "unload", unload, "unload models, on a server that runs with --model-control-mode=explicit", "chat"
    )
    added.add_argument("models", metavar="MODEL", nargs="+", help="the models, in this order")
    added.add_argument("--with-dependents", action="store_true", help="an ensemble's models, too")


def status(options: argparse.Namespace) -> int:
    """Print what the server is and how its models are; the exit status tells whether it is ready."""
    with open_client(options) as client:
        server, is_ready, infos = client.server_metadata(), client.is_ready(), client.models()
        counted = {(each.name, each.version): each for each in client.statistics()}
    gauges = None if options.metrics is None else read_gauges(options.metrics)
    if options.json:
        described = [
            {
                **asdict(info),
                "statistics": asdict(counted[key]) if (key := (info.name, info.version)) in counted else None,
                **({} if gauges is None else {"gauges": gauges.get(info.name, {})}),
            }
            for info in infos
        ]
        print_json({**asdict(server), "is_ready": is_ready, "models": described})
    else:
        print(f"{server.name} {server.version} at {options.url} is {'ready' if is_ready else 'not ready'}")
        heads = ["MODEL", "VERSION", "STATE", "REQUESTS", "FAILED", "QUEUE_MS", "COMPUTE_MS"]
        heads += [] if gauges is None else COLUMNS
        rows = [
            [
                *_model_cells(info),
                *_count_cells(counted.get((info.name, info.version))),
                *([] if gauges is None else _gauge_cells(gauges.get(info.name, {}))),
                " ".join(info.reason.split()),
            ]
            for info in infos
        ]
        print_table([[*heads, ""], *rows], right=frozenset(range(3, len(heads))) | {1})
    return exit_status.DONE if is_ready else exit_status.SERVER_FAULT


def models(options: argparse.Namespace) -> int:
    """Print the models of the server's repository, or one model's tensors."""
    with open_client(options) as client:
        if options.model is not None:
            metadata = client.model_metadata(options.model)
            if options.json:
                print_json(asdict(metadata))
            else:
                _print_metadata(metadata)
            return exit_status.DONE
        infos = client.models()
    if options.json:
        for info in infos:
            print_json(asdict(info))
    else:
        print_table([_model_cells(info) for info in infos], right=frozenset({1}))
    return exit_status.DONE


def wait(options: argparse.Namespace) -> int:
    """Wait, and tell on stderr for what."""
    told = _Told()
    try:
        with open_client(options) as client:
            client.wait_until_ready(options.for_s, options.model, progress=told.tell)
    finally:
        told.end()
    return exit_status.DONE


def load(options: argparse.Namespace) -> int:
    """Load models, one after the other."""
    with open_client(options) as client:
        for model in options.models:
            client.load_model(model)
            print(f"{model} is loaded", flush=True)
    return exit_status.DONE


def unload(options: argparse.Namespace) -> int:
    """Unload models, one after the other."""
    with open_client(options) as client:
        for model in options.models:
            client.unload_model(model, with_dependents=options.with_dependents)
            print(f"{model} is unloaded", flush=True)
    return exit_status.DONE


class _Told:
    """What has been told of a wait: a line a reason, whose time goes on in a terminal."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._open_line = ""

    def tell(self, seen: "Readiness") -> None:
        reason = "ready" if seen.reason is None else harmless(" ".join(seen.reason.split()))
        line = f"{seen.waited_s:6.1f} s  {reason}"
        if reason != self._reason:
            self.end()
            self._reason = reason
        elif not sys.stderr.isatty():
            return
        if sys.stderr.isatty():
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
            self._open_line = line
        else:
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the line that a terminal shows."""
        if self._open_line:
            print(file=sys.stderr, flush=True)
        self._open_line = ""


def _model_cells(info: "ModelInfo") -> list[str]:
    return [info.name, info.version or "-", info.state or "NOT LOADED"]


def _count_cells(counted: "ModelStatistics | None") -> list[str]:
    if counted is None:
        return ["-"] * 4
    times = [each if each is None else 1000 * each for each in (counted.mean_queue_s, counted.mean_compute_s)]
    return [str(counted.num_succeeded), str(counted.num_failed), *(_number(each, ".1f") for each in times)]


def _gauge_cells(gauges: dict[str, float]) -> list[str]:
    return [
        _number(gauges.get(name), "g" if name != metric_names.KV_CACHE_USAGE else ".0%") for name in COLUMNS.values()
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _print_metadata(metadata: "ModelMetadata") -> None:
    print(f"{metadata.name} ({metadata.platform}), versions {', '.join(metadata.versions)}")
    print_table([*_tensor_rows("input", metadata.inputs), *_tensor_rows("output", metadata.outputs)])


def _tensor_rows(side: str, tensors: "tuple[TensorMetadata, ...]") -> list[list[str]]:
    return [[side, each.name, each.datatype, str(list(each.shape))] for each in tensors]
