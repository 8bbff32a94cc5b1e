"""Garbage: whatever bytes come, the answer is a clear refusal, nothing stays behind, and memory is bounded."""

import asyncio
import json
import random
import re
from collections.abc import Callable

import psutil
import pytest
from tests.gateway_process import GatewayProcess

ROUNDS = 800
AT_ONCE = 64
PATIENCE_S = 30.0
GROWTH_BYTES = 48 << 20
"""What the process may hold more after the second half of the garbage than before it."""

HEADERS = b"Host: x\r\nContent-Type: application/json\r\n"
BODIES = (
    b'{"model": "minilm", "input": ["a", "b"]}',
    b'{"model": "reranker", "query": "a", "documents": ["a", "b"]}',
    b'{"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "stream": true}',
    b'{"model": "chat", "prompt": "hello", "max_tokens": 4}',
)
PATHS = (b"/v1/embeddings", b"/v1/rerank", b"/v1/chat/completions", b"/v1/completions")
SPLICES = (
    b"\0", b"\r\n", b"\n\n", b"\xff\xfe", b"\xed\xa0\x80", b"[" * 5000, b'{"a":' * 300, b"%00", b"../../", b"1e999",
    b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Content-Length: -1\r\n", b"\xe2\x80\xae", b"NaN",
    b"Content-Length: 99999999999999999999\r\n", b"X: " + b"a" * 40_000 + b"\r\n", b"X:\x01\r\n", b"HTTP/9.9", b"null",
    b"\\ud800", b'"' * 7, b"-0", b"9" * 5000, b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"HTTP/1.0", b"true",
    b"Connection: close\r\n", b"PRI * HTTP/2.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"Content-Length: 5\r\n",
)  # fmt: skip


def request(chance: random.Random) -> bytes:
    """A good request, whole or in chunks, changed in up to six places, or nothing but random bytes."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(1, 3000))
    kind = chance.randrange(len(PATHS))
    body = BODIES[kind]
    if chance.random() < 0.3:
        framed = HEADERS + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        framed = HEADERS + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    made = bytearray(b"POST %s HTTP/1.1\r\n%s" % (PATHS[kind], framed))
    for _ in range(chance.randrange(7)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0:
                made[at:at] = chance.choice(SPLICES)
            case 1:
                del made[at : at + chance.randrange(1, 40)]
            case 2:
                made[at : at + 1] = chance.randbytes(1)
            case _:
                made[at:at] = made[: chance.randrange(200)]
    return bytes(made)


async def send(port: int, data: bytes, hang_up_s: float | None = None) -> bytes:
    """What a connection is answered until it closes; nothing for a caller who hangs up instead of reading."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        if hang_up_s is not None:
            await asyncio.sleep(hang_up_s)
            return b""
        while chunk := await asyncio.wait_for(reader.read(65536), PATIENCE_S):
            received += chunk
    except ConnectionError:
        pass  # closed under the sender; what had come before counts
    finally:
        writer.close()
    return received


def check(data: bytes, received: bytes) -> None:
    """Every answer of a connection is a success or a refusal in OpenAI's form."""
    for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", received, re.MULTILINE):
        assert status[:1] in b"24" or status in (b"100", b"503"), (data, received)
    head, _, body = received.partition(b"\r\n\r\n")
    if re.match(rb"HTTP/1\.1 4", head):
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None, (data, received)
        if body:
            error = json.loads(body[: int(length[1])])["error"]
            assert error["message"], (data, received)
            assert error["type"] in ("invalid_request_error", "rate_limit_error"), (data, received)


async def attack(port: int, seeds: range) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> None:
        chance = random.Random(seed)
        data = request(chance)
        async with slots:
            check(data, await send(port, data, chance.random() * 0.02 if chance.random() < 0.15 else None))

    await asyncio.gather(*(one(seed) for seed in seeds))


@pytest.fixture(scope="module")
def target(start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    """A gateway that soon gives up on halves of requests."""
    return start_gateway(header_timeout_s=0.3, body_timeout_s=0.3, keep_alive_s=1, max_body_bytes=65536)


def test_garbage_is_refused_and_leaves_nothing_behind(target: GatewayProcess) -> None:
    """No answer is a fault, nobody stays in flight or connected, the log has no traceback, and memory levels off."""
    assert target.process is not None
    process = psutil.Process(target.process.pid)
    asyncio.run(attack(target.port, range(ROUNDS // 2)))
    before = process.memory_info().rss
    asyncio.run(attack(target.port, range(ROUNDS // 2, ROUNDS)))
    _eventually(lambda: target.metric("fathom_gateway_connections") == 1)
    _eventually(lambda: target.metric("fathom_gateway_requests_in_flight") == 1)  # this one
    assert process.memory_info().rss - before < GROWTH_BYTES
    assert [line for line in target.log() if "traceback" in line or line["level"] == "error"] == []
    good = {"model": "minilm", "input": "a"}
    assert target.ask("POST", "/v1/embeddings", good).status == 200


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b"no_http"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"no_http"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400, b"no_http"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431, b"head_too_large"),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, b"head_too_large"),
        (b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, b"no_http"),
        (b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, b"no_http"),
        (b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400, b"no_http"),
        (b"POST /v1/rerank HTTP/1.1\r\n" + HEADERS + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"no_http"),
        (b"GET /no/such/%ff%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404, b"no such endpoint"),
    ],
)
def test_what_is_no_http_is_told_so(target: GatewayProcess, data: bytes, status: int, code: bytes) -> None:
    """The connection ends with an answer in OpenAI's form that shows nothing of what was sent."""
    received = asyncio.run(send(target.port, data))
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert code in received
    assert b"bytearray" not in received
    check(data, received)


def _eventually(holds: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not holds():
            await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(wait(), PATIENCE_S))
