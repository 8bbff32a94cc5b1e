"""The models that Triton serves, as the API's callers see them: which there are, and what each is for."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from fathom_client import AsyncClient, ModelConfig, ModelNotFoundError, protocol
from fathom_server.gateway.errors import UnknownModelError
from fathom_server.text.tool_call_format import TOOL_CALL_FORMATS, ToolCallFormat

Task = Literal["generate", "embed", "rerank", "classify"]

FRESH_S: Final = 5.0
"""What is known of a model is asked for again after so many seconds: it may have been loaded anew."""

_ENSEMBLE: Final = "ensemble"
_SIGNS: Final[tuple[tuple[Task, frozenset[str]], ...]] = (
    ("generate", frozenset({protocol.MESSAGES, protocol.TEXT_OUTPUT, protocol.FINISH_REASON})),
    ("embed", frozenset({protocol.TEXT_INPUT, protocol.SENTENCE_EMBEDDING})),
    ("rerank", frozenset({protocol.QUERY, protocol.DOCUMENT, protocol.SCORE})),
    ("classify", frozenset({protocol.TEXT_INPUT, protocol.SCORES, protocol.LABELS})),
)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that callers may name.

    ``tool_calls`` is how its chat template writes calls of tools, None where it knows none. ``seen`` is when the
    gateway met it first, in seconds since 1970.
    """

    name: str
    task: Task
    tool_calls: ToolCallFormat | None
    seen: int


class ModelCatalog:
    """Knows the models by asking Triton, at most every ``FRESH_S`` seconds for each."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._known: dict[str, tuple[float, ServedModel | None]] = {}
        self._seen: dict[str, int] = {}

    async def find(self, name: str, task: Task) -> ServedModel:
        """The model of a name, which must be for ``task``; raises UnknownModelError and FathomError."""
        model = await self.get(name)
        if model.task != task:
            raise UnknownModelError(
                f"the model {name!r} is for {model.task}; this endpoint needs one for {task}: see /v1/models",
                param="model",
                code="model_not_found",
            )
        return model

    async def get(self, name: str) -> ServedModel:
        """The model of a name, if callers may name it; raises UnknownModelError and FathomError."""
        try:
            model = await self._look(name)
            what = f"the model {name!r} is a part of another model"
        except ModelNotFoundError:
            model, what = None, f"there is no model {name!r}"
        if model is None:
            names = ", ".join(each.name for each in await self.all()) or "none"
            raise UnknownModelError(f"{what}; models that are ready: {names}", param="model", code="model_not_found")
        return model

    async def all(self) -> list[ServedModel]:
        """Every model that is ready and that callers may name, by name; raises FathomError."""
        names = sorted({model.name for model in await self._client.models() if model.is_ready})
        models = []
        for name in names:
            with suppress(ModelNotFoundError):  # it was unloaded meanwhile
                models.append(await self._look(name))
        return [model for model in models if model is not None]

    async def _look(self, name: str) -> ServedModel | None:
        now = time.monotonic()
        known = self._known.get(name)
        if known is not None and now - known[0] < FRESH_S:
            return known[1]
        config = await self._client.model_config(name)  # a name that there is not is an error, and not remembered
        task = _task_of(config)
        form = config.parameters.get(protocol.TOOL_CALL_FORMAT_PARAMETER)
        model = None
        if task is not None:
            tool_calls = next((known for known in TOOL_CALL_FORMATS if known == form), None)
            model = ServedModel(name, task, tool_calls, self._seen.setdefault(name, int(time.time())))
        self._known[name] = (now, model)
        return model


def _task_of(config: ModelConfig) -> Task | None:
    """What a model is for, by its tensors; None for the parts of others, and for an LLM's ensemble.

    Behind that ensemble, a caller who leaves would keep its place in the engine.
    """
    names = {*config.inputs, *config.outputs}
    task = next((task for task, signs in _SIGNS if signs <= names), None)
    return None if task == "generate" and config.platform == _ENSEMBLE else task
