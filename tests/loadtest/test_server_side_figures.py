"""What the server's metrics add up to over a stage, from pages of Prometheus's text format."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from fathom_client import metric_names
from fathom_loadtest.cli import main
from fathom_loadtest.errors import MetricsError
from fathom_loadtest.metrics import stage_figures
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.scenario import Target
from fathom_loadtest.server_side.document import ServerSide
from fathom_loadtest.server_side.observation import MOST_KEPT, Look, Observation
from fathom_loadtest.server_side.processes import ProcessSample, ServerProcesses
from fathom_loadtest.server_side.reconcile import reconciled
from fathom_loadtest.server_side.scrape import Scrape
from fathom_loadtest.server_side.watch import ServerSideWatch

SECOND = 1_000_000_000
MS = 1_000_000


def encoder_page(requests: int, batches: int, *, failures: int = 0, pending: int = 0) -> str:
    """Triton's counters of an encoder whose requests took 9 ms each: 4 waiting, 1 + 3 + 1 computing."""
    labels = '{model="minilm",version="1"}'
    times = {"request": 9000, "queue": 4000, "compute_input": 1000, "compute_infer": 3000, "compute_output": 1000}
    lines = [f"nv_inference_{name}_duration_us{labels} {us * requests}" for name, us in times.items()]
    lines += [
        "# HELP nv_inference_request_success Number of successful inference requests, all batch sizes",
        "# TYPE nv_inference_request_success counter",
        f"nv_inference_request_success{labels} {requests}",
        f'nv_inference_request_failure{{model="minilm",reason="OTHER",version="1"}} {failures}',
        f"nv_inference_count{labels} {requests}",
        f"nv_inference_exec_count{labels} {batches}",
        f"nv_inference_pending_request_count{labels} {pending}",
    ]
    return "\n".join(lines) + "\n"


def llm_page(answers: int, *, running: int = 0, waiting: int = 0, cache: float = 0.0) -> str:
    """An engine's counters after so many answers of 10 tokens with a TTFT of 30 ms and an ITL of 4 ms each."""
    counters = {
        metric_names.PROMPT_TOKENS: 20 * answers,
        metric_names.GENERATION_TOKENS: 10 * answers,
        metric_names.PREFIX_CACHE_QUERIES: 20 * answers,
        metric_names.PREFIX_CACHE_HITS: 5 * answers,
        metric_names.PREEMPTIONS: answers // 4,
        metric_names.REQUESTS_RUNNING: running,
        metric_names.REQUESTS_WAITING: waiting,
        metric_names.KV_CACHE_USAGE: cache,
    }
    lines = [f'{name}{{model="chat"}} {value}' for name, value in counters.items()]
    lines.append(f'{metric_names.REQUEST_ENDS}{{model="chat",finished_reason="length"}} {answers}')
    for name, seconds in (
        (metric_names.TIME_TO_FIRST_TOKEN, 0.03),
        (metric_names.INTER_TOKEN_LATENCY, 0.004),
        (metric_names.END_TO_END_LATENCY, 0.066),
    ):
        for bound in (0.005, 0.025, 0.05, 0.1):
            inside = answers if seconds <= bound else 0
            lines.append(f'{name}_bucket{{model="chat",le="{bound:g}"}} {inside}')
        lines += [
            f'{name}_bucket{{model="chat",le="+Inf"}} {answers}',
            f'{name}_sum{{model="chat"}} {seconds * answers}',
            f'{name}_count{{model="chat"}} {answers}',
        ]
    return "\n".join(lines) + "\n"


def observe(*pages: str, processes: tuple[ProcessSample | None, ...] = ()) -> ServerSide:
    """What pages a second apart tell of a stage that opened half a second after the first."""
    observation = Observation("http://server:8002/metrics", 1.0)
    for number, page in enumerate(pages):
        look = Look(Scrape.parse(page, number * SECOND), processes[number] if processes else None)
        take = observation.begin if number == 0 else observation.end if number == len(pages) - 1 else observation.add
        take(look)
    return observation.conclude(SECOND // 2)


def test_an_encoders_counters_become_averages_a_request() -> None:
    """What was counted before the stage is left out; times are ms a request, the batch is inferences an execution."""
    side = observe(encoder_page(100, 50), encoder_page(140, 60, pending=6), encoder_page(180, 70, failures=3))
    model = side.models["minilm"]
    assert (model.requests, model.failures, model.executions, model.batch_size) == (80, 3, 20, 4.0)
    times = (model.request_ms, model.queue_ms, model.compute_input_ms, model.compute_infer_ms, model.compute_output_ms)
    assert times == (9.0, 4.0, 1.0, 3.0, 1.0)
    assert model.pending is not None
    assert model.pending.max == 6
    assert side.series.at_s == (0.5, 1.5)
    assert side.series.batch_size == (4.0, 4.0)
    assert side.series.queue_ms == (4.0, 4.0)
    assert (side.series.running, side.series.generation_tokens_per_s) == ((None, None), (None, None))
    assert side.engines == {}


def test_an_engines_counters_become_its_figures() -> None:
    """Tokens, hits, preemptions, ends and times are of the stage; gauges are of the looks within it."""
    busy = llm_page(12, running=4, waiting=2, cache=0.5)
    side = observe(llm_page(8), busy, llm_page(20, running=2, cache=0.25), llm_page(28))
    engine = side.engines["chat"]
    assert (engine.prompt_tokens, engine.generation_tokens, engine.preemptions) == (400, 200, 5)
    assert engine.generation_tokens_per_s == pytest.approx(200 / 3)
    assert (engine.prefix_hit_share, engine.draft_acceptance) == (0.25, None)
    assert engine.ends == {"length": 20}
    assert engine.ttft is not None
    assert engine.queue is None
    assert (engine.ttft.count, engine.ttft.avg_ms) == (20, pytest.approx(30))
    assert engine.ttft.p50_ms == pytest.approx(37.5)  # the middle of the bucket from 25 to 50 ms
    assert (engine.running.avg, engine.running.max, engine.waiting.max) == (3, 4, 2)
    assert engine.kv_cache_usage.max == 0.5
    assert side.series.running == (4, 2, 0)
    assert side.series.generation_tokens_per_s == (40, 80, 80)


def test_memory_and_cpu_of_the_servers_processes() -> None:
    """Memory is over all looks, CPU the time between first and last by the wall clock."""
    samples = (ProcessSample(2, 100, 5.0), ProcessSample(3, 300, 6.0), ProcessSample(2, 200, 8.0))
    side = observe(encoder_page(1, 1), encoder_page(2, 2), encoder_page(3, 3), processes=samples)
    assert side.processes is not None
    assert (side.processes.processes, side.processes.cpu_share) == (3, 1.5)
    assert (side.processes.rss_bytes.min, side.processes.rss_bytes.max) == (100, 300)
    assert side.series.cpu_share == (1.0, 2.0)


def test_gpus_are_told_apart() -> None:
    """Each has its own gauges by UUID; the series is of all together."""

    def page(first: float, second: float) -> str:
        lines = []
        for gpu, utilization in (("GPU-a", first), ("GPU-b", second)):
            labels = f'{{gpu_uuid="{gpu}"}}'
            lines += [
                f"nv_gpu_utilization{labels} {utilization}",
                f"nv_gpu_memory_used_bytes{labels} {2**30}",
                f"nv_gpu_memory_total_bytes{labels} {2**34}",
                f"nv_gpu_power_usage{labels} 300.5",
            ]
        return "\n".join(lines) + "\n"

    side = observe(page(0, 0), page(0.5, 1.0), page(0, 0))
    assert set(side.gpus) == {"GPU-a", "GPU-b"}
    second = side.gpus["GPU-b"]
    assert second.utilization is not None
    assert second.power_watts is not None
    assert (second.utilization.max, second.power_watts.avg, second.memory_total_bytes) == (1.0, 300.5, 2**34)
    assert side.series.gpu_utilization == (0.75, 0.0)
    assert side.series.gpu_memory_bytes == (2**31, 2**31)


def test_counters_that_begin_again_are_noticed() -> None:
    """A server that was restarted counts from nothing; what it says is less than what happened, and says so."""
    side = observe(encoder_page(100, 50), encoder_page(30, 10))
    assert side.models["minilm"].requests == 30
    assert any("restarted during the stage" in note for note in side.notes)


def test_a_stage_of_hours_keeps_a_bounded_series() -> None:
    """Past so many looks every second one is dropped, then three of four; the figures still are of all."""
    observation = Observation("http://server:8002/metrics", 1.0)
    looks = 2 * MOST_KEPT + 500
    for number in range(looks):
        look = Look(Scrape.parse(f'nv_inference_request_success{{model="m"}} {number}\n', number * SECOND), None)
        (observation.begin if number == 0 else observation.add)(look)
    side = observation.conclude(0)
    assert (side.scrapes, side.models["m"].requests) == (looks, looks - 1)
    assert MOST_KEPT // 2 <= len(side.series.at_s) <= MOST_KEPT
    assert side.series.at_s == tuple(sorted(side.series.at_s))


def test_client_and_server_are_reconciled_over_the_same_requests() -> None:
    """What the client saw beyond the server's own average is named, and counts that differ are remarked on."""
    side = observe(llm_page(0), llm_page(4))
    records = []
    for index in range(4):  # TTFT 35 ms and ITL 5 ms at the client: 5 ms and 1 ms outside of the engine
        times = tuple((35 + 5 * token) * MS for token in range(10))
        records.append(RequestRecord(0, index, 0, times[-1], times, (1,) * 10, 20, 10, "length", model="chat"))
    whole = reconciled(side, {"chat": stage_figures(records)})
    by_figure = {each.figure: each for each in whole.reconciled}
    assert set(by_figure) == {"ttft_ms", "itl_ms", "request_latency_ms"}
    ttft = by_figure["ttft_ms"]
    assert (ttft.client_ms, ttft.server_ms, ttft.outside_ms) == (35, pytest.approx(30), pytest.approx(5))
    assert ttft.outside_share == pytest.approx(1 / 7)
    assert by_figure["itl_ms"].outside_ms == pytest.approx(1)
    assert whole.notes == ()
    fewer = reconciled(side, {"chat": stage_figures(records[:3])})
    assert any("the server counted 4 values of ttft_ms, the client 3" in note for note in fewer.notes)


@contextmanager
def serving(body: bytes, status: int = 200) -> Iterator[str]:
    """A web server that answers everything so."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"<html>hello</html>", 200, "not Prometheus's text format"),
        (b"\xff\xfe", 200, "not Prometheus's text format"),
        (b"", 404, "HTTP status 404"),
    ],
)
def test_what_is_no_metrics_page_is_named(body: bytes, status: int, complaint: str) -> None:
    """The address and the fault are in the message."""
    with serving(body, status) as url, pytest.raises(MetricsError, match=complaint) as caught:
        Scrape.fetch(url)
    assert url in str(caught.value)


def test_a_closed_port_and_a_page_without_metrics_fail_nothing() -> None:
    """The stage's answer has no scrapes and says why; a page of other metrics leaves it empty."""
    with serving(b"up 1\n") as url, ServerSideWatch(url, "127.0.0.1:1", 0.2) as watch:
        watch.open()
        empty = watch.close(0)
    assert empty.scrapes >= 2
    assert (empty.models, empty.engines) == ({}, {})
    assert any("no process of this host" in note for note in empty.notes)
    with ServerSideWatch(url, "elsewhere.example:8001", 0.2) as watch:
        watch.open()
        closed = watch.close(0)
    assert closed.scrapes == 0
    assert any("Connection refused" in note and url in note for note in closed.notes)
    assert any("another host" in note for note in closed.notes)


def test_a_watcher_that_died_fails_nothing() -> None:
    """The stage's answer says so."""
    with serving(b"up 1\n") as url, ServerSideWatch(url, "127.0.0.1:1", 1.0) as watch:
        running = (child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE)
        (watcher,) = (child for child in running if url in child.cmdline())
        watcher.kill()
        watch.open()
        assert any("watches the server ended" in note for note in watch.close(0).notes)


def test_a_server_on_another_host_has_no_known_memory() -> None:
    """Only processes of this host can be looked at."""
    with pytest.raises(MetricsError, match=r"memory of the server is not known: elsewhere\.example is another host"):
        ServerProcesses("elsewhere.example:8001")


@pytest.mark.parametrize("address", ["localhost:8002", "ftp://server/metrics", "http://user:secret@server/metrics"])
def test_what_is_no_address_of_metrics_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line names the flag, the value and the remedy, and the status is 2."""
    assert main(["run", "--model", "m", "--input-tokens", "5", "--metrics-url", address]) == 2
    stderr = capsys.readouterr().err
    assert stderr == f"error: --metrics-url is {address!r}; it must be http://HOST:PORT/metrics or off\n"


def test_the_address_of_the_metrics_follows_from_the_servers() -> None:
    """It is Triton's port on the server's host, unless another one or none is given."""
    assert Target("gpu-1:8001").metrics == "http://gpu-1:8002/metrics"
    assert Target("[::1]:8001").metrics == "http://[::1]:8002/metrics"
    assert Target("gpu-1:8001", metrics_url="https://gpu-1/triton").metrics == "https://gpu-1/triton"
    assert Target("gpu-1:8001", metrics_url="off").metrics is None
