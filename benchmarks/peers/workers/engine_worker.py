"""Fathom's engine without Triton: VERSION_FOLDER. What the served one costs beyond this one is Triton's share."""

import sys
import threading
from pathlib import Path

from benchmarks.peers.workers.line_protocol import Answer, Clock, Job, serve

from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Piece
from fathom_server.engine.runner.load import load_runner
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import RequestError
from fathom_server.text.tokenizer import TextTokenizer


class Arrivals:
    """Notes when the tokens of one request come; a sink of the engine."""

    def __init__(self, clock: Clock) -> None:
        self.answer = Answer()
        self.ended = threading.Event()
        self._clock = clock

    def on_piece(self, piece: Piece) -> None:
        """Note a piece's tokens."""
        self.answer.add(len(piece.token_ids), self._clock.now_s())
        if piece.is_last:
            self.ended.set()

    def on_error(self, error: RequestError) -> None:
        """Say why there will be no more."""
        print(f"engine: {error}", file=sys.stderr)
        self.ended.set()


def main() -> None:
    """Load as the backend does, and serve."""
    folder = Path(sys.argv[1])
    settings = EngineSettings.load(folder)
    engine = Engine(load_runner(folder, settings), settings, TextTokenizer.load(folder))
    engine.start()

    def run(jobs: list[Job]) -> list[Answer]:
        clock, sinks = Clock(), []
        for number, job in enumerate(sorted(jobs, key=lambda job: job.at_s)):
            clock.sleep_until(job.at_s)
            sinks.append(Arrivals(clock))
            sampling = SamplingParameters(max_tokens=job.max_tokens, ignore_eos=True)
            engine.submit(str(number), job.prompt, sampling, sinks[-1])
        for sink in sinks:
            sink.ended.wait()
        return [sink.answer for sink in sinks]

    serve(run)
    engine.stop()


if __name__ == "__main__":
    main()
