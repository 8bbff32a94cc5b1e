"""Measured from outside: models of a real server, over gRPC."""

from typing import Any

from benchmarks.speculation.contender import Answer
from benchmarks.speculation.workloads import Job

from fathom_client import Client


class ServedContender:
    """A model of a server, over gRPC."""

    def __init__(self, client: Client, model: str) -> None:
        self.client, self.model = client, model

    def answer(self, job: Job) -> Answer:
        """Generate, streamed."""
        sampling, answer = job.sampling, Answer()
        options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "ignore_eos": sampling.ignore_eos}
        if sampling.temperature:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        for chunk in self.client.stream(self.model, job.prompt_ids, **options):
            answer.add(chunk.token_ids)
        return answer

    def counts(self) -> tuple[int, int] | None:
        """Not known here."""
        return None

    def close(self) -> None:
        """Nothing to do: the server is stopped with all its models."""
