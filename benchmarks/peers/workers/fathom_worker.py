"""Fathom: REPOSITORY MODEL. ``fathom-serve`` with the embedded Triton, and this process as its one gRPC client."""

import asyncio
import sys
from pathlib import Path

from benchmarks.peers.served import serve_repository
from benchmarks.peers.workers.line_protocol import Answer, Clock, Job, serve

from fathom_client import AsyncClient


def main() -> None:
    """Start the server, serve, end the server."""
    repository, model = sys.argv[1:]
    with serve_repository(Path(repository)) as served, asyncio.Runner() as runner:
        client = AsyncClient(served.url, timeout=None)
        serve(lambda jobs: runner.run(answer_jobs(client, model, jobs)), served.pid, served.load_s)
        runner.run(client.close())


async def answer_jobs(client: AsyncClient, model: str, jobs: list[Job]) -> list[Answer]:
    """Send each job when it is due; its answer is streamed."""
    clock = Clock()
    return list(await asyncio.gather(*(_request(client, model, job, clock) for job in jobs)))


async def _request(client: AsyncClient, model: str, job: Job, clock: Clock) -> Answer:
    await asyncio.sleep(max(0.0, job.at_s - clock.now_s()))
    answer = Answer()
    async for chunk in client.stream(model, job.prompt, max_tokens=job.max_tokens, ignore_eos=True):
        answer.add(chunk.num_output_tokens, clock.now_s())
    return answer


if __name__ == "__main__":
    main()
