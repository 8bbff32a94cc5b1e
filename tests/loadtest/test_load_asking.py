"""How requests are asked and timed: by when they left and what came, not by what building and reading them takes."""

import time
from typing import Any

import pytest

from fathom_client import Client
from fathom_client.testing import (
    MemoryTransport,
    ReceivedRequest,
    ScriptedEmbedder,
    ScriptedGenerator,
    ScriptedReranker,
)
from fathom_loadtest.content.prompt import Prompt
from fathom_loadtest.scenario import Fixed, TaskSpec
from fathom_loadtest.users.answer import Answer
from fathom_loadtest.users.asking import ASK

PROMPT = Prompt(
    "hello there", messages=({"role": "user", "content": "hello there"},), documents=("a", "b"), max_tokens=4
)


@pytest.mark.parametrize("task", ASK)
def test_a_request_starts_when_it_is_sent(task: Any) -> None:
    """Of every task the start lies between the call and the server's sight of the request, and responses after that."""
    seen_ns: list[int] = []

    def see(answer: Any) -> Any:
        seen_ns.append(time.perf_counter_ns())
        return answer

    def reply(_: ReceivedRequest) -> str:
        return str(see("one two"))

    models = {
        "generate": ScriptedGenerator(reply),
        "chat": ScriptedGenerator(reply),
        "embed": ScriptedEmbedder(lambda _: see([1.0, 2.0])),
        "rerank": ScriptedReranker(lambda _query, _document: see(0.5)),
    }
    spec, answer = TaskSpec(task, task, input_tokens=Fixed(2)), Answer()
    with Client(transport=MemoryTransport(models)) as client:
        called_ns = time.perf_counter_ns()
        ASK[spec.task](client, spec, PROMPT, answer, None)
    assert answer.sent_ns is not None
    assert called_ns < answer.sent_ns < seen_ns[0]
    assert answer.response_ns == sorted(answer.response_ns)
    assert answer.response_ns[-1] > seen_ns[-1]
    assert len(answer.response_ns) == len(answer.response_tokens) == (2 if task in ("generate", "chat") else 1)
