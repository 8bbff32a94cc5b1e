"""Bodies: what is no JSON, too large, too deep or too slow gets a clear answer before anything parses it."""

import contextlib
import gzip
import http.client
import json
import select
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway_process import Answer, GatewayProcess

from fathom_server.gateway.edge.json_depth import is_deeper_than

PATH = "/v1/embeddings"
GOOD = b'{"model": "minilm", "input": "a"}'
JSON_TYPE = {"Content-Type": "application/json"}
MAX_BODY_BYTES = 4096
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def tight(start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    """A gateway that takes small and shallow bodies, and soon."""
    return start_gateway(max_body_bytes=MAX_BODY_BYTES, max_json_depth=8, body_timeout_s=0.5)


def post(gateway: GatewayProcess, body: bytes, content_type: str | None = "application/json", **headers: str) -> Answer:
    given = {} if content_type is None else {"Content-Type": content_type}
    return gateway.ask("POST", PATH, body, given | headers)


json_values = st.recursive(
    st.none() | st.integers() | st.text(alphabet=st.sampled_from('[]{}"\\aé"')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='[]{}"\\'), inner, max_size=4),
    max_leaves=30,
)


@given(value=json_values, limit=st.integers(0, 6), ascii_only=st.booleans())
def test_depth_is_that_of_the_parsed_value(value: Any, limit: int, ascii_only: bool) -> None:
    """Brackets count where they are JSON's own, and never in strings or keys, escaped quotes or not."""

    def depth(each: Any) -> int:
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert is_deeper_than(body, limit) == (depth(value) > limit)


@given(body=st.binary(max_size=200) | st.text(alphabet='[]{}",:\\1 ', max_size=200).map(str.encode))
def test_what_passes_for_shallow_never_exhausts_a_parser(body: bytes) -> None:
    """Whatever bytes come, JSON or not, a parser ends with a value or with its own error."""
    if not is_deeper_than(body * 50, 100):
        with contextlib.suppress(ValueError):
            json.loads(body * 50)


def test_deep_nesting_is_refused_by_name(tight: GatewayProcess) -> None:
    """One level more than allowed is refused; brackets in a text are none."""
    assert post(tight, b'{"model": "minilm", "input": "' + b"[" * 500 + b'"}').status == 200
    for body in (b"[" * 9 + b"]" * 9, b'{"a":' * 9 + b"1" + b"}" * 9, b"[" * 4000):
        answer = post(tight, body)
        assert (answer.status, answer.error["code"]) == (400, "nesting_too_deep")
        assert "8 deep" in answer.error["message"]


def test_nesting_that_would_exhaust_the_interpreter_is_refused(gateway: GatewayProcess) -> None:
    """A million brackets under the default limits are an answer of 400 and nothing else."""
    answer = post(gateway, b"[" * 1_000_000)
    assert (answer.status, answer.error["code"]) == (400, "nesting_too_deep")
    answer = post(gateway, b'{"a":' * 200_000 + b"1" + b"}" * 200_000)
    assert (answer.status, answer.error["code"]) == (400, "nesting_too_deep")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json; charset=latin-1",
        "application/xml",
    ],
)
def test_a_wrong_content_type_is_refused(gateway: GatewayProcess, content_type: str | None) -> None:
    """Only JSON in UTF-8 is taken, and the answer says so."""
    answer = post(gateway, GOOD, content_type)
    assert (answer.status, answer.error["code"]) == (415, "media_type")
    assert "application/json" in answer.error["message"]


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"'],
)
def test_every_spelling_of_json_in_utf8_is_taken(gateway: GatewayProcess, content_type: str) -> None:
    """The type's case and the parameter's quotes do not matter."""
    assert post(gateway, GOOD, content_type).status == 200


def test_a_compressed_body_is_refused_unread(gateway: GatewayProcess) -> None:
    """Nothing is decompressed, so nothing small can become large."""
    answer = post(gateway, gzip.compress(GOOD), **{"Content-Encoding": "gzip"})
    assert (answer.status, answer.error["code"]) == (415, "media_type")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff\xfe" + GOOD, "invalid_encoding"),
        (GOOD.decode().encode("utf-16-le"), "invalid_encoding"),
        (b'{"model": "minilm", "input": "\xed\xa0\x80"}', "invalid_encoding"),
        (b'{"model": "minilm", "input": "\0"}', "invalid_encoding"),
    ],
)
def test_what_is_no_utf8_is_refused_with_the_place(gateway: GatewayProcess, body: bytes, code: str) -> None:
    """The answer names the byte that is wrong."""
    answer = post(gateway, body)
    assert (answer.status, answer.error["code"]) == (400, code)
    assert "send JSON in UTF-8" in answer.error["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model"', b"nonsense", b"{'model': 1}", GOOD + b"}", b"[1," * 20, b'{"a": 1e', b"\xef\xbb\xbf"],
)
def test_what_is_no_json_is_refused(gateway: GatewayProcess, body: bytes) -> None:
    """The body is named as the fault."""
    answer = post(gateway, body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert "body" in answer.error["message"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" * 5000, "1e999", "-1", "true", '"1"', "[]", '"\\ud800"'])
def test_numbers_and_texts_that_json_can_hide_are_refused(gateway: GatewayProcess, value: str) -> None:
    """Neither what is no number, nor one too long to read, nor half a character becomes a fault of the gateway."""
    for field in ("dimensions", "prompt_name"):
        answer = post(gateway, f'{{"model": "minilm", "input": "a", "{field}": {value}}}'.encode())
        if (field, value) != ("prompt_name", '"1"'):
            assert answer.status == 400, value
            assert answer.error["message"]


def test_a_body_too_large_is_refused_by_its_announced_length(tight: GatewayProcess) -> None:
    """What says that it is too large is not read; the limit itself is taken."""
    room = MAX_BODY_BYTES - len(GOOD)
    assert post(tight, GOOD + b" " * room).status == 200
    answer = post(tight, GOOD + b" " * (room + 1))
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert str(MAX_BODY_BYTES) in answer.error["message"]


def test_a_body_too_large_is_refused_where_its_length_was_not_announced(tight: GatewayProcess) -> None:
    """In chunks, too, and without waiting for the end that never comes; the connection does not stay open for it."""
    with tight.connect() as connection:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        for _ in range(3):
            connection.sendall(b"800\r\n" + b" " * 0x800 + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass


def test_a_body_that_does_not_come_is_refused(tight: GatewayProcess) -> None:
    """A body that trickles in is given up at the limit, and its request does not stay in flight."""
    with tight.connect() as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b'{"model"')
        answer = b""
        while not answer.endswith(b"}}"):
            received = connection.recv(65536)
            assert received, answer
            answer += received
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"slow_request" in answer
    assert tight.metric("fathom_gateway_requests_in_flight", route=PATH) == 0
    assert tight.metric("fathom_gateway_rejected_total", reason="body") > 0


def test_large_bodies_together_have_bounded_room(start_gateway: Callable[..., GatewayProcess]) -> None:
    """While many callers send large bodies, those over the room for sixteen of them are told to try again."""
    limit = 1 << 20
    gateway = start_gateway(max_body_bytes=limit, body_timeout_s=10)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {limit}\r\n\r\n"
    connections = [gateway.connect() for _ in range(20)]
    try:
        for connection in connections:
            connection.sendall(head.encode() + b" " * (limit - 1))
        refused, deadline = set(), time.monotonic() + PATIENCE_S
        while len(refused) < 4:
            assert time.monotonic() < deadline
            readable, _, _ = select.select([each for each in connections if each not in refused], [], [], 1)
            assert all(each.recv(65536).startswith(b"HTTP/1.1 503 ") for each in readable)
            refused.update(readable)
    finally:
        for connection in connections:
            connection.close()
    assert post(gateway, GOOD).status == 200


def test_an_answer_comes_whole_and_the_connection_goes_on(gateway: GatewayProcess) -> None:
    """A refused request does not spoil the next one of its connection."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    for body, status in ((b"[", 400), (GOOD, 200), (b"\xff", 400), (GOOD, 200)):
        connection.request("POST", PATH, body, JSON_TYPE)
        response = connection.getresponse()
        assert (response.status, bool(json.loads(response.read()))) == (status, True)
    connection.close()
