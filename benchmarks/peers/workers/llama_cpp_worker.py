"""llama.cpp's HTTP server: SERVER MODEL.gguf. Continuous batching over 16 slots, answers as server-sent events."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time

from line_protocol import Answer, Clock, Job, serve

SLOTS = 16
SLOT_TOKENS = 1024
READY_S = 120.0


def main() -> None:
    """Start the server, serve, end the server."""
    program, model = sys.argv[1:]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--model", model, "--host", "127.0.0.1", "--port", str(port), "--threads", "2"]
    command += ["--threads-batch", "2", "--threads-http", "18", "--parallel", str(SLOTS), "--no-webui"]
    command += [
        "--ctx-size",
        str(SLOTS * SLOT_TOKENS),
        "--batch-size",
        "2048",
        "--ubatch-size",
        "512",
        "--cont-batching",
    ]
    command += ["--cache-ram", "0", "--log-disable"]
    began = time.perf_counter()
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
    try:
        _wait(server, port)
        load_s = time.perf_counter() - began
        serve(lambda jobs: asyncio.run(_run(port, jobs)), server.pid, load_s)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + READY_S
    while not asyncio.run(_is_ready(port)):
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("error: llama-server did not become ready")
        time.sleep(0.02)


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    status = await reader.readline()
    writer.close()
    return b" 200 " in status


async def _run(port: int, jobs: list[Job]) -> list[Answer]:
    clock = Clock()
    return list(await asyncio.gather(*(_request(port, job, clock) for job in jobs)))


async def _request(port: int, job: Job, clock: Clock) -> Answer:
    await asyncio.sleep(max(0.0, job.at_s - clock.now_s()))
    body = json.dumps(
        {
            "prompt": job.prompt,
            "n_predict": job.max_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,
            "stream": True,
            "return_tokens": True,
            "cache_prompt": False,
        }
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    head = "POST /completion HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"llama-server answered {status!r} {await reader.read(2000)!r}")
    answer = Answer()
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(f"llama-server answered {event}")
        if event.get("stop"):
            answer.add(event["tokens_predicted"] - answer.tokens, clock.now_s())
            break
        answer.add(len(event["tokens"]), clock.now_s())
    writer.close()
    return answer


if __name__ == "__main__":
    main()
