"""How an LLM's tokens are guessed ahead."""

from dataclasses import asdict, dataclass
from typing import Annotated

from fathom_export.errors import SpecError
from fathom_export.spec.key import Key, check_ranges
from fathom_server.engine.settings import SpeculationMethod, SpeculationSettings
from fathom_server.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Speculation:
    """How tokens are guessed ahead; answers are the same with and without."""

    method: Annotated[
        SpeculationMethod,
        Key(
            "guess tokens ahead from what the text repeats (prompt_lookup) or by a smaller model (draft); same answers"
        ),
    ] = "none"
    draft: Annotated[
        str, Key("the smaller model: name of another LLM of the bundle with the same tokenizer, or NAME/VERSION")
    ] = ""
    max_draft_tokens: Annotated[
        int, Key("tokens guessed at once at most, up to 32; the engine guesses as many as pay", minimum=1)
    ] = 8

    def __post_init__(self) -> None:
        check_ranges(self, "speculation")
        try:
            self.engine_settings()
        except SettingsError as error:
            raise SpecError(str(error)) from error

    @property
    def draft_model(self) -> str:
        """Name of the draft model, without its version; empty where there is none."""
        return self.draft.partition("/")[0]

    def engine_settings(self) -> SpeculationSettings:
        """As the engine reads it."""
        return SpeculationSettings(**asdict(self))
