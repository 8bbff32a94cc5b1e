"""Scenarios for tests of what comes after them."""

from typing import Any

from fathom_loadtest.scenario import ClosedLoop, Fixed, Scenario, Slo, Target, Task, TaskSpec


def closed_loop(
    model: str = "chat",
    task: Task = "generate",
    users: tuple[int, ...] = (1,),
    requests: int = 1,
    *,
    url: str = "localhost:8001",
    slos: tuple[Slo, ...] = (),
    **content: Any,
) -> Scenario:
    """Make a scenario of one task; without prompts it has synthetic ones of 50 tokens."""
    content = content or {"input_tokens": Fixed(50)}
    return Scenario(Target(url), ClosedLoop(users, requests=requests), (TaskSpec(model, task, **content),), slos)
