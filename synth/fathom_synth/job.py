"""A job as its TOML file says it: every key with its type, range and default. ``job_file`` reads and explains."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fathom_client import protocol
from fathom_synth.filters.settings import FilterSettings, JudgeSettings

Text = Annotated[str, Field(min_length=1)]
File = Annotated[Path, Field(strict=False)]
Penalty = Annotated[float, Field(ge=-protocol.MAX_PENALTY, le=protocol.MAX_PENALTY)]


class Table(BaseModel):
    """A table of the job: unknown keys are refused, and values of another type are not turned into the right one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ServerSettings(Table):
    """Where requests go and how many: ``[server]``."""

    url: Text | list[Text] = "localhost:8001"
    """HOST:PORT of the gRPC endpoint, or several."""
    in_flight: Annotated[int, Field(ge=1, le=4096)] = 32
    """Requests under way at once."""
    requests_per_s: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Tokens of prompts and answers together."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Limit of one request."""
    wait_s: Annotated[float, Field(ge=0)] = 3600.0
    """How long a server that is away is waited for."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a request is sent that meets a fault of the server's own, before it is given up."""
    api_key_file: File | None = None
    tls_ca: File | None = None


class TeacherSettings(Table):
    """The model that writes: ``[teacher]``."""

    model: Text
    """Its name on the server."""
    card: File
    """Its model card: README.md, or a folder that holds one, or an export's passport.json."""
    revision: Text | None = None
    """Its revision, in place of what the passport says or of the checkpoint's checksum."""
    override_licence: Text | None = None
    """The licence (or ``none``) whose refusal the user takes on himself."""


class SamplingSettings(Table):
    """How answers are drawn: ``[sampling]``, or a prompt's own ``sampling``."""

    samples: Annotated[int, Field(ge=1, le=protocol.MAX_SEQUENCES)] = 1
    """Answers a prompt."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    temperature: Annotated[float, Field(ge=0, le=protocol.MAX_TEMPERATURE)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: list[Text] | None = None

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples is {self.samples}, but at temperature 0 all are the same; "
                "raise the temperature or ask for one"
            )
        return self

    def options(self) -> dict[str, Any]:
        """The client's options that these are."""
        given = self.model_dump(exclude={"samples"}, exclude_none=True)
        return {**given, "n": self.samples}


class PromptSettings(Table):
    """One kind of prompt: ``[[prompts]]``, a template over the rows of a file."""

    name: Text
    template: Text | None = None
    """Jinja source of the user's turn."""
    template_file: File | None = None
    system: Text | None = None
    """Jinja source of the system's turn; left out where it renders to nothing."""
    seeds: File | None = None
    """JSONL, CSV or Parquet, whose rows are the template's variables; without it the template is rendered once."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only so many rows, the first."""
    json_schema: File | None = None
    """The answers' JSON schema."""
    impose_schema: bool = True
    """Whether the engine may write nothing else; if not, only the filter ``schema`` looks."""
    sampling: SamplingSettings | None = None

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if (self.template is None) == (self.template_file is None):
            raise ValueError("needs exactly one of template and template_file")
        if not self.impose_schema and self.json_schema is None:
            raise ValueError("has impose_schema, but no json_schema; give one")
        return self


class Job(Table):
    """A job as a whole."""

    output: File
    """Folder of the data, its card, and what is needed to go on after a stop."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides what is sampled."""
    server: ServerSettings = ServerSettings()
    teacher: TeacherSettings
    sampling: SamplingSettings = SamplingSettings()
    prompts: Annotated[list[PromptSettings], Field(min_length=1)]
    filters: list[FilterSettings] = []

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [prompt.name for prompt in self.prompts]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ValueError(f"prompts[{place}].name is {name!r}, as another's; give each its own")
        kinds = [each.filter for each in self.filters if not isinstance(each, JudgeSettings)]
        for place, kind in enumerate(kinds):
            if kind in kinds[:place]:
                raise ValueError(f"filters has {kind!r} twice; give it once")
        samples = max(self.sampling_of(prompt).samples for prompt in self.prompts)
        if "agreement" in kinds and samples < 2:
            raise ValueError("filters has 'agreement', but no prompt has several samples to agree; raise samples")
        return self

    def sampling_of(self, prompt: PromptSettings) -> SamplingSettings:
        """How this prompt's answers are drawn."""
        return prompt.sampling or self.sampling
