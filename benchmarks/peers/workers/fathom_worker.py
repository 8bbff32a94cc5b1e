"""Fathom: REPOSITORY MODEL. ``fathom-serve`` with the embedded Triton, and this process as its one gRPC client."""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from line_protocol import Answer, Clock, Job, serve

from fathom_client import AsyncClient

READY_S = 120.0


def main() -> None:
    """Start the server, serve, end the server."""
    repository, model = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="fathom-bench-") as folder:
        ports = Path(folder) / "ports.json"
        command = [sys.executable, "-m", "fathom_server.cli", repository, "--ports", "auto", "--log-level", "warning"]
        command += ["--ports-file", str(ports)]
        began = time.perf_counter()
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
        try:
            url = f"127.0.0.1:{_wait(server, ports)}"
            load_s = time.perf_counter() - began
            with asyncio.Runner() as runner:
                client = AsyncClient(url, timeout=None)
                serve(lambda jobs: runner.run(_run(client, model, jobs)), server.pid, load_s)
                runner.run(client.close())
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(40)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait(server: "subprocess.Popen[bytes]", ports: Path) -> int:
    deadline = time.monotonic() + READY_S
    while not ports.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("error: fathom-serve did not become ready")
        time.sleep(0.02)
    return int(json.loads(ports.read_text(encoding="utf-8"))["grpc"])


async def _run(client: AsyncClient, model: str, jobs: list[Job]) -> list[Answer]:
    clock = Clock()
    return list(await asyncio.gather(*(_request(client, model, job, clock) for job in jobs)))


async def _request(client: AsyncClient, model: str, job: Job, clock: Clock) -> Answer:
    await asyncio.sleep(max(0.0, job.at_s - clock.now_s()))
    answer = Answer()
    async for chunk in client.stream(model, job.prompt, max_tokens=job.max_tokens, ignore_eos=True):
        answer.add(chunk.num_output_tokens, clock.now_s())
    return answer


if __name__ == "__main__":
    main()
