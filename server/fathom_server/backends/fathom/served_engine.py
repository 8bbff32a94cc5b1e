"""What the adaptor asks of an engine, whoever computes, and which one a model's folder is for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fathom_server.engine.engine import Engine
from fathom_server.engine.metrics import EngineLoad, EngineMetrics
from fathom_server.engine.request import AnswerSink, Request
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineSettings
from fathom_server.text.tokenizer import TextTokenizer
from fathom_server.vllm.settings import VLLM_FILE, VllmSettings


class ServedEngine(Protocol):
    """An engine that the adaptor can serve; each call means what ``Engine``'s does."""

    metrics: EngineMetrics

    def start(self) -> None:
        """See ``Engine.start``."""
        ...

    def stop(self) -> None:
        """See ``Engine.stop``."""
        ...

    def prepare_grammars(self) -> None:
        """See ``Engine.prepare_grammars``."""
        ...

    def submit(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        sampling: SamplingParameters,
        sink: AnswerSink,
        timeout_s: float | None = None,
        *,
        priority: int = 0,
        client: str = "",
        precision: str | None = None,
        bad_word_ids: Sequence[Sequence[int]] = (),
    ) -> Request:
        """See ``Engine.submit``."""
        ...

    def cancel(self, request: Request) -> None:
        """See ``Engine.cancel``."""
        ...

    def load(self) -> EngineLoad:
        """See ``Engine.load``."""
        ...


def open_engine(folder: Path, tokenizer: TextTokenizer) -> tuple[ServedEngine, int]:
    """The engine of a version's folder, not yet started, and how many streamed responses a second it may have.

    Raises SettingsError.
    """
    if (folder / VLLM_FILE).is_file():
        from fathom_server.vllm.engine import VllmEngine
        from fathom_server.vllm.triton_upstream import TritonUpstream

        beside = VllmSettings.load(folder)
        return VllmEngine(TritonUpstream(beside.model), beside, tokenizer), beside.stream_responses_per_s
    from fathom_server.engine.runner.load import load_runner
    from fathom_server.engine.speculation.load import load_speculator

    settings = EngineSettings.load(folder)
    engine = Engine(load_runner(folder, settings), settings, tokenizer, load_speculator(folder, settings))
    return engine, settings.limits.stream_responses_per_s
