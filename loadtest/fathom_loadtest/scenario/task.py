"""What requests ask: the task, the model, where the content comes from, how long it is."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario.key import Key, check_ranges
from fathom_loadtest.scenario.lengths import Length

Task = Literal["generate", "chat", "embed", "rerank"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
STREAMED: Final = ("generate", "chat")
"""Tasks whose answers arrive in pieces."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an LLM chooses its tokens; what is left out the server chooses."""

    temperature: Annotated[float | None, Key("0 is greedy", minimum=0, maximum=100)] = None
    top_k: Annotated[int | None, Key("sample among so many tokens, 0 for all", minimum=0)] = None
    top_p: Annotated[float | None, Key("sample among the likeliest tokens of this mass", above=0, maximum=1)] = None
    min_p: Annotated[float | None, Key("least probability, relative to the likeliest", minimum=0, maximum=1)] = None
    repetition_penalty: Annotated[float | None, Key("1 changes nothing", above=0)] = None
    presence_penalty: Annotated[float | None, Key("for tokens that came", minimum=-2, maximum=2)] = None
    frequency_penalty: Annotated[float | None, Key("for each time a token came", minimum=-2, maximum=2)] = None
    min_tokens: Annotated[int | None, Key("nothing ends the answer before", minimum=0)] = None
    stop: Annotated[tuple[str, ...], Key("texts that end the answer")] = ()
    ignore_eos: Annotated[bool, Key("ask the model to go on to `output_tokens`")] = False

    def __post_init__(self) -> None:
        check_ranges(self)

    def options(self) -> dict[str, Any]:
        """What is given, under the client's names."""
        return {name: value for name, value in asdict(self).items() if value not in (None, (), False)}


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Prompts that begin alike, as behind a common system prompt. The prefix is part of ``input_tokens``."""

    tokens: Annotated[int, Key("tokens of a prefix", minimum=1)]
    share: Annotated[float, Key("share of the prompts that begin with one", minimum=0, maximum=1)] = 1.0
    prefixes: Annotated[int, Key("different ones; each such prompt has one of them", minimum=1)] = 1

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Chats of several turns: each request carries the questions and the model's own answers before it."""

    turns: Annotated[Length, Key("questions of a conversation")]
    think_time_s: Annotated[
        float, Key("mean time in seconds between an answer and the next question, exponentially distributed", minimum=0)
    ] = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Callers who leave before the answer's end. No error; their answers count with the tokens that had come."""

    share: Annotated[float, Key("share of the requests", minimum=0, maximum=1)]
    after_tokens: Annotated[int | None, Key("leave as soon as so many tokens came", minimum=1)] = None
    after_s: Annotated[float | None, Key("leave so many seconds after sending", above=0)] = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.after_tokens is None) == (self.after_s is None):
            raise ScenarioError("needs exactly one of after_tokens and after_s")


@dataclass(frozen=True, slots=True)
class Documents:
    """What a synthetic reranking request ranks."""

    count: Annotated[int, Key("documents a query", minimum=1, maximum=4096)] = 8
    tokens: Annotated[Length | None, Key("tokens of a document; by default `input_tokens`")] = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One kind of request. Prompts come from a file, from a trace, or are synthetic with ``input_tokens`` tokens."""

    model: Annotated[str, Key("the model's name")]
    task: Annotated[Task, Key("what is asked of it")] = "generate"
    name: Annotated[str, Key("name of this kind of request in reports; by default the task")] = ""
    weight: Annotated[float, Key("how often it is sent, relative to the others of a mix", above=0)] = 1.0
    prompts: Annotated[Path | None, Key("prompt set, relative to this file: JSONL or ShareGPT's JSON")] = None
    input_tokens: Annotated[Length | None, Key("tokens of a synthetic prompt")] = None
    output_tokens: Annotated[Length | None, Key("most tokens of an answer")] = None
    shared_prefix: Annotated[SharedPrefix | None, Key("synthetic prompts that begin alike")] = None
    conversation: Annotated[Conversation | None, Key("chats of several turns")] = None
    cancellation: Annotated[Cancellation | None, Key("callers who leave early")] = None
    documents: Annotated[Documents | None, Key("what synthetic `rerank` requests rank")] = None
    sampling: Annotated[Sampling, Key("how the model chooses its tokens")] = Sampling()

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.task not in TASKS:
            raise ScenarioError(f"is {self.task!r}; valid values: {', '.join(TASKS)}", "task")
        if self.prompts is not None and self.input_tokens is not None:
            raise ScenarioError("needs exactly one of prompts and input_tokens")
        for name, valid in (
            ("output_tokens", STREAMED),
            ("cancellation", STREAMED),
            ("conversation", ("chat",)),
            ("documents", ("rerank",)),
        ):
            if getattr(self, name) is not None and self.task not in valid:
                raise ScenarioError(f"is given, but task is {self.task!r}; it is for {' and '.join(valid)}", name)
        if self.task not in STREAMED and self.sampling != Sampling():
            raise ScenarioError(f"is given, but task is {self.task!r}, which makes no text", "sampling")
        self._check_prefix()

    def _check_prefix(self) -> None:
        if self.shared_prefix is None:
            return
        if self.input_tokens is None:
            raise ScenarioError("needs input_tokens; only synthetic prompts can begin alike", "shared_prefix")
        if self.shared_prefix.tokens >= self.input_tokens.mean:
            raise ScenarioError(
                f"is {self.shared_prefix.tokens}; it must be below the mean of input_tokens "
                f"({self.input_tokens.mean:g}), of which the prefix is a part",
                "shared_prefix.tokens",
            )

    @property
    def label(self) -> str:
        """Its name in reports."""
        return self.name or self.task

    @property
    def streamed(self) -> bool:
        """Whether answers arrive in pieces."""
        return self.task in STREAMED
