"""What the tests of cascades share: the deployment's models, what each LLM knows, and what a cascade tells."""

import re
import time
from typing import Any

from tests.serving import FathomServe

from fathom_client import Generation

CASCADE_BUNDLE = """
repository = "repository"

[[models]]
name = "small"
source = "{models}/small"
task = "generate"

[[models]]
name = "large"
source = "{models}/large"
task = "generate"
precision = "int8"

[[models]]
name = "chat"
task = "generate"
engine = "cascade"
cascade = {{ small = "small", large = "large", signal = "min_logprob", threshold = -0.05 }}
"""
LONELY_CASCADE = """
[[models]]
name = "lonely"
task = "generate"
engine = "cascade"
cascade = {{ small = "small", large = "large", large_url = "127.0.0.1:1", signal = "min_logprob", threshold = 1.0 }}
router = {{ large_patterns = ["straight"], large_tasks = ["dates"] }}
limits = {{ max_requests = 2 }}
"""
EASY = "Tina: Rome\nHugo: Cairo\nWhere does Tina live?"
HARD = "Write 23/10/1972 in the form: day month year"
"""What the small model knows for certain, and what only the large one does."""
LONG: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True}


def ask(text: str) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def metrics(server: FathomServe) -> dict[str, float]:
    """Every sample of Fathom's, by name and labels in the order of their names."""
    status, body = server.get("/metrics", server.metrics_port)
    assert status == 200
    samples = {}
    for name, labels, value in re.findall(r"^(fathom_\w+)\{([^}]*)\} (\S+)$", body.decode(), re.MULTILINE):
        told = ",".join(f"{key}={label}" for key, label in sorted(re.findall(r'(\w+)="([^"]*)"', labels)))
        samples[f"{name}{{{told}}}"] = float(value)
    return samples


def wait_until_running(server: FathomServe, expected: dict[str, int]) -> None:
    """Wait until so many requests run in each model; the test's time limit ends a wait in vain."""
    wanted = {f"fathom_num_requests_running{{model={model}}}": float(count) for model, count in expected.items()}
    while not wanted.items() <= metrics(server).items():
        time.sleep(0.02)


def told(answer: Generation) -> dict[str, Any]:
    """What the cascade says of an answer."""
    assert answer.cascade is not None
    return dict(answer.cascade)
