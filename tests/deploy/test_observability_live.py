"""What rules and dashboards name is what a live server and a live gateway have: metrics, labels, and labels' values."""

import http.client
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy.observability.deployment import deployment
from tests.deploy.observability.questions import (
    Asked,
    Question,
    panel_questions,
    recorded,
    rule_questions,
    variable_questions,
)
from tests.serving import FathomServe

from fathom_client import Client, metric_names
from fathom_client.errors import DeadlineExceededError
from fathom_loadtest.server_side import names as triton

OF_TARGETS = {"job", "instance", "namespace"}
"""Labels that Prometheus gives every series: the job's and the target's, and in a cluster the namespace."""

OF_PROMETHEUS = {"up": set[str](), "ALERTS": {"alertname", "alertstate"}}
"""Series that Prometheus makes itself, and their further labels."""

ONLY_WITH_A_GPU = {triton.GPU_UTILIZATION, triton.GPU_MEMORY_USED, triton.GPU_MEMORY_TOTAL, triton.GPU_POWER}
"""By Triton's documentation of its metrics; each carries ``gpu_uuid``."""

OF_RECORDED = {"model"}

OPEN_ENDED = {"status"}
"""Labels of which no run shows every value: HTTP's statuses."""

QUESTIONS = [*rule_questions(), *panel_questions(), *variable_questions()]


@dataclass(slots=True)
class Scraped:
    """Labels of each series' name, and their values."""

    labels: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))

    def read(self, text: str) -> None:
        written = {re.split(r"[{ ]", line, maxsplit=1)[0] for line in text.splitlines() if not line.startswith("#")}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                # the parser adds OpenMetrics' ending to a counter that lacks it
                name = sample.name if sample.name in written else sample.name.removesuffix("_total")
                known = self.labels[name]
                for label, value in sample.labels.items():
                    known[label].add(value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    with deployment(tmp_path_factory.mktemp("observed")) as running:
        yield running


@pytest.fixture(scope="module")
def at_start(server: FathomServe) -> str:
    """What a server says before its first request."""
    status, text = server.get("/metrics", server.metrics_port)
    assert status == 200
    return text.decode()


@pytest.fixture(scope="module")
def scraped(server: FathomServe, at_start: str) -> Scraped:
    """Everything that server and gateway say after an answer, a refusal and a late request of each kind."""
    with Client(server.url) as client:
        client.generate("chat", "Add 1 and 2.", max_tokens=8)
        with pytest.raises(DeadlineExceededError):
            client.generate("chat", "Add 1 and 2.", max_tokens=400, ignore_eos=True, timeout_s=0.01)
    body = '{"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "stream": true}'
    assert post(server, body) == 200
    assert post(server, body, declared=1 << 40) == 413
    found = Scraped()
    for port in (server.metrics_port, server.openai_port):
        status, text = server.get("/metrics", port)
        assert status == 200
        found.read(text.decode())
    return found


def post(server: FathomServe, body: str, declared: int | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.openai_port, timeout=60)
    try:
        headers = {"Content-Type": "application/json", "Content-Length": str(declared or len(body))}
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def faults(question: Question, scraped: Scraped) -> list[str]:
    """What a question names that there is not."""
    found = []
    shown_by: set[str] = set(OF_TARGETS)
    for asked in question.asked():
        labels = labels_of(asked.name, scraped)
        if labels is None:
            found.append(f"there is no metric {asked.name}")
            continue
        shown_by |= labels
        named = {label for label, _, _ in asked.matchers} | asked.grouped_by
        found += [f"{asked.name} has no label {label}" for label in sorted(named - labels)]
        found += value_faults(asked, scraped)
    found += [f"the text shows {label}, which no series has" for label in sorted(question.shown - shown_by)]
    return found


def labels_of(name: str, scraped: Scraped) -> set[str] | None:
    if name in scraped.labels:
        return OF_TARGETS | scraped.labels[name].keys()
    if name in OF_PROMETHEUS:
        return OF_TARGETS | OF_PROMETHEUS[name]
    if name in ONLY_WITH_A_GPU:
        return OF_TARGETS | {triton.GPU}
    return OF_TARGETS | OF_RECORDED if name in recorded() else None


def value_faults(asked: Asked, scraped: Scraped) -> list[str]:
    """Values that a matcher asks for and no series has; each alternative of a pattern is one."""
    found = []
    for label, operator, wanted in asked.matchers:
        values = scraped.labels.get(asked.name, {}).get(label)
        if values is None or label in OPEN_ENDED:
            continue
        alternatives = wanted.split("|") if operator in ("MatchOp.Re", "MatchOp.NotRe") else [re.escape(wanted)]
        found += [
            f"no {label} of {asked.name} is {each}; there are {sorted(values)}"
            for each in alternatives
            if not any(re.fullmatch(each, value) for value in values)
        ]
    return found


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.where)
def test_everything_that_is_asked_for_is_there(question: Question, scraped: Scraped) -> None:
    """Each metric, label of a matcher, a grouping or a text, and value of a matcher is one that was scraped."""
    assert not faults(question, scraped)


@pytest.mark.parametrize(
    ("expression", "shown", "fault"),
    [
        ("rate(fathom_tokens_total[5m])", set(), "there is no metric fathom_tokens_total"),
        ("fathom_num_requests_running{node='a'}", set(), "fathom_num_requests_running has no label node"),
        ("sum by (kind) (fathom_num_requests_running)", set(), "fathom_num_requests_running has no label kind"),
        ("up == 1 unless on (pod) nv_inference_request_success", set(), "up has no label pod"),
        (
            'fathom_request_success_total{finished_reason=~"stop|timeout"}',
            set(),
            "no finished_reason of fathom_request_success_total is timeout",
        ),
        ("fathom_num_requests_running", {"key"}, "the text shows key"),
    ],
)
def test_what_is_not_there_is_found(expression: str, shown: set[str], fault: str, scraped: Scraped) -> None:
    """The check above names a wrong metric, label, value, or legend."""
    assert any(each.startswith(fault) for each in faults(Question("", expression, frozenset(shown)), scraped))


def test_every_metric_of_ours_is_on_a_dashboard_or_in_a_rule(scraped: Scraped) -> None:
    """What is counted is seen: each of the engine's and the gateway's metrics is asked for somewhere."""
    asked = {each.name for question in QUESTIONS for each in question.asked()}
    ours = {name for name in scraped.labels if name.startswith("fathom_")}
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in ours}
    assert not {each for each in families if not any(name.startswith(each) for name in asked)}


def test_a_server_without_requests_is_not_taken_for_one_without_models(at_start: str) -> None:
    """Triton has each model's counters as soon as it is loaded, which FathomServerNotReady goes by."""
    assert f'\n{triton.SUCCESS}{{model="chat",version="1"}} ' in at_start


def test_a_reason_is_counted_from_zero(scraped: Scraped) -> None:
    """Every reason of an end is there before it has occurred, so that Prometheus sees the first of each."""
    reasons = scraped.labels[metric_names.REQUEST_ENDS][metric_names.FINISHED_REASON]
    assert reasons == set(metric_names.FINISHED_REASONS)


def test_the_gateway_says_whether_triton_is_ready(server: FathomServe) -> None:
    """Each scrape of the gateway asks Triton anew."""
    _, text = server.get("/metrics", server.openai_port)
    assert "\nfathom_gateway_target_ready 1.0\n" in text.decode()
