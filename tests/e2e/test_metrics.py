"""The engine's metrics stand on Triton's port, under names that LLM dashboards know, and agree with what was done."""

import re
import time

import pytest
from tests.serving import FathomServe

from fathom_client import Client
from fathom_server import metric_names as names

MODEL = "chat_int8"
IDLE = {names.REQUESTS_RUNNING: 0.0, names.REQUESTS_WAITING: 0.0, names.KV_CACHE_USAGE: 0.0}


def read(server: FathomServe) -> dict[str, float]:
    """Every sample of the model: name and labels but the model's → value."""
    status, body = server.get("/metrics", server.metrics_port)
    assert status == 200
    samples = {}
    for name, labels, value in re.findall(r"^(fathom_\w+)\{([^}]*)\} (\S+)$", body.decode(), re.MULTILINE):
        given = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if given.pop("model") == MODEL:
            rest = ",".join(f"{key}={value}" for key, value in sorted(given.items()))
            samples[f"{name}{{{rest}}}" if rest else name] = float(value)
    return samples


def settled(server: FathomServe, expected: dict[str, float]) -> dict[str, float]:
    """The samples once each of ``expected`` has its value; they are written one by one, and not all at once."""
    deadline = time.monotonic() + 30
    while not expected.items() <= (samples := read(server)).items():
        wrong = {name: samples.get(name) for name, value in expected.items() if samples.get(name) != value}
        assert time.monotonic() < deadline, f"{wrong}, not {expected}"
        time.sleep(0.05)
    return samples


def at_rest(server: FathomServe) -> dict[str, float]:
    """The samples once nothing runs and nothing of what ran before is still to be written."""
    samples = settled(server, IDLE)
    while (later := read_later(server)) != samples:
        samples = later
    return samples


def read_later(server: FathomServe) -> dict[str, float]:
    """The samples after what was due has been written."""
    time.sleep(1)
    return read(server)


def test_counters_and_histograms_follow_the_requests(server: FathomServe, client: Client) -> None:
    """Three answers of ten tokens add thirty tokens, three ends and three observations of each time."""
    times = (
        names.TIME_TO_FIRST_TOKEN,
        names.INTER_TOKEN_LATENCY,
        names.END_TO_END_LATENCY,
        names.QUEUE_TIME,
        names.PREFILL_TIME,
        names.DECODE_TIME,
    )
    before = at_rest(server)
    for turn in range(3):
        client.generate(MODEL, f"Count: {turn}", max_tokens=10, ignore_eos=True)
    added = {
        names.GENERATION_TOKENS: 30,
        f"{names.REQUEST_ENDS}{{{names.FINISHED_REASON}=length}}": 3,
        **{f"{name}_count": 3 for name in times},
        **{f"{name}_bucket{{le=+Inf}}": 3 for name in times},
    }
    after = settled(server, {name: before.get(name, 0) + count for name, count in added.items()} | IDLE)
    for name in times:
        assert after[f"{name}_sum"] > before[f"{name}_sum"] or name == names.QUEUE_TIME


def test_every_name_is_on_the_port(server: FathomServe, client: Client) -> None:
    """A dashboard finds each series before the first request of its kind, apart from reasons that have not occurred."""
    samples = read(server)
    plain = [
        value
        for key, value in vars(names).items()
        if key.isupper() and value.startswith("fathom_") and not value.endswith(("_seconds", "_by_precision_total"))
    ]
    for name in (*plain, f"{names.REQUESTS_BY_PRECISION}{{{names.PRECISION}=int8}}"):
        assert name in samples or name == names.REQUEST_ENDS, name
    assert f"{names.STEP_TIME}_count{{{names.STEP_KIND}=decode}}" in samples


@pytest.mark.parametrize("count", [4])
def test_gauges_show_what_runs(server: FathomServe, client: Client, count: int) -> None:
    """While streams run, the gauges count them and the cache's share is above none."""
    streams = [client.stream(MODEL, "Count: ", max_tokens=800, ignore_eos=True) for _ in range(count)]
    try:
        for stream in streams:
            next(iter(stream))
        samples = settled(server, {names.REQUESTS_RUNNING: count})
        assert 0 < samples[names.KV_CACHE_USAGE] <= 1
    finally:
        for stream in streams:
            stream.close()
    settled(server, {names.REQUESTS_RUNNING: 0})
