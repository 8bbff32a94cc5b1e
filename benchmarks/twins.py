"""What benchmarks of the load test need: a running twin, a run of fathom-load, and a reader that costs little."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from grpc import aio
from tritonclient.grpc import service_pb2

_STREAM_INFER: Final = "/inference.GRPCInferenceService/ModelStreamInfer"


class Twin:
    """``fathom-load twin`` over models as a TOML file would have them; a context manager that waits and stops."""

    def __init__(self, folder: Path, models: Sequence[Mapping[str, Any]]) -> None:
        folder.mkdir(parents=True)
        lines = (
            line
            for each in models
            for line in ("[[models]]", *(f"{name} = {_toml(value)}" for name, value in each.items()))
        )
        self._settings = folder / "twin.toml"
        self._settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.process: subprocess.Popen[str]
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "fathom_loadtest", "twin", "--ports", "auto", "--config", str(self._settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None  # noqa: S101 (a pipe was asked for)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: the twin ended with status {self.process.wait()} before it was ready")
        self.ports = json.loads(line)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)

    @property
    def url(self) -> str:
        """Its gRPC address."""
        return f"127.0.0.1:{self.ports['grpc']}"


def load_test(url: str, output: Path, *arguments: Sequence[object]) -> dict[str, Any]:
    """Run ``fathom-load run`` to its end; gives its report. Raises SystemExit with what it said if it fails."""
    command = [sys.executable, "-m", "fathom_loadtest", "run", "--url", url, "--output", str(output)]
    command += [str(each) for part in arguments for each in part]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return report


@dataclass(frozen=True, slots=True)
class StreamRead:
    """One stream as it came: how many responses, and the mean time between its tokens."""

    responses: int
    itl_ms: float


async def read_streams(url: str, model: str, streams: int, tokens: int) -> list[StreamRead]:
    """Read streams of so many tokens all at once, without looking into the responses."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, datatype, content in (
        ("text_input", "BYTES", b"\x04\x00\x00\x00time"),
        ("max_tokens", "INT32", tokens.to_bytes(4, "little")),
        ("stream", "BOOL", b"\x01"),
        ("sampling_parameters", "BYTES", _bytes_element(b'{"ignore_eos": true}')),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[1])
        request.raw_input_contents.append(content)
    request.outputs.add(name="text_output")
    message = request.SerializeToString()
    async with aio.insecure_channel(url) as channel:
        method = channel.stream_stream(_STREAM_INFER)

        async def read() -> StreamRead:
            call = method(iter([message]), metadata=(("triton_grpc_error", "true"),))
            times = [time.perf_counter() async for _ in call]
            return StreamRead(len(times), (times[-1] - times[0]) * 1e3 / (tokens - 1))

        return list(await asyncio.gather(*(read() for _ in range(streams))))


def _toml(value: object) -> str:
    """A setting as TOML writes it, which is JSON but for tables."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_toml(each)}' for name, each in value.items())} }}"
    return json.dumps(value)


def _bytes_element(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content
