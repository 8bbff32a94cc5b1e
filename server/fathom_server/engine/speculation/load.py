"""The speculator that a model's settings ask for."""

from dataclasses import replace
from pathlib import Path

from fathom_server.engine.settings import ENGINE_FILE, EngineSettings
from fathom_server.engine.speculator import Speculator
from fathom_server.errors import SettingsError
from fathom_server.text.tokenizer import TOKENIZER_FILE


def load_speculator(folder: Path, settings: EngineSettings) -> Speculator | None:
    """The speculator of a model's version folder, None where it has none.

    Raises SettingsError or DeviceError where the draft model is missing, has another tokenizer or cannot be loaded.
    """
    speculation = settings.speculation
    if speculation.method == "none":
        return None
    if speculation.method == "prompt_lookup":
        from fathom_server.engine.speculation.prompt_lookup import PromptLookupSpeculator

        return PromptLookupSpeculator(speculation.max_draft_tokens)
    from fathom_server.engine.runner.load import load_runner
    from fathom_server.engine.speculation.draft_model import DraftModelSpeculator

    draft_folder = find_draft(folder, speculation.draft)
    check_same_tokenizer(folder, draft_folder)
    draft = _fitted(EngineSettings.load(draft_folder), settings)
    return DraftModelSpeculator(load_runner(draft_folder, draft), draft, settings, speculation.max_draft_tokens)


def find_draft(folder: Path, name: str) -> Path:
    """The version folder of a draft model, named from the repository that holds ``folder``'s model.

    Of a model's folder the newest version counts. Raises SettingsError where there is none.
    """
    place = folder.resolve().parent.parent / name
    if (place / ENGINE_FILE).is_file():
        return place
    versions = [path.parent for path in place.glob(f"*/{ENGINE_FILE}") if path.parent.name.isdecimal()]
    if not versions:
        raise SettingsError(
            f"speculation.draft is {name!r}, but {place} holds no LLM; export that model into the same repository, or "
            "set speculation.method to another"
        )
    return max(versions, key=lambda path: int(path.name))


def check_same_tokenizer(target: Path, draft: Path) -> None:
    """Raise SettingsError unless two models' folders have tokenizers that give every id the same token."""
    target_file, draft_file = target / TOKENIZER_FILE, draft / TOKENIZER_FILE
    try:
        if target_file.read_bytes() == draft_file.read_bytes():
            return
    except OSError as error:
        raise SettingsError(f"a draft model's tokenizer cannot be compared with its target's: {error}") from error
    tokens, draft_tokens = _tokens_by_id(target_file), _tokens_by_id(draft_file)
    if tokens == draft_tokens:
        return
    other = min(number for number in tokens.keys() | draft_tokens if tokens.get(number) != draft_tokens.get(number))
    raise SettingsError(
        f"the draft model {draft} has another tokenizer than {target}: token {other} is {draft_tokens.get(other)!r} "
        f"there and {tokens.get(other)!r} here; name a draft model that was trained with the same tokenizer"
    )


def _tokens_by_id(file: Path) -> dict[int, str]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise SettingsError(f"{file} is not a tokenizer: {error}") from error
    return {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}


def _fitted(draft: EngineSettings, target: EngineSettings) -> EngineSettings:
    """The draft model's settings beside a target: its batch and threads, and a context that both can hold."""
    context = min(target.limits.max_context, draft.graph.max_context)
    limits = replace(
        draft.limits,
        max_batch=target.limits.max_batch,
        max_context=context,
        kv_cache_tokens=max(context, target.limits.kv_cache_tokens) if target.limits.kv_cache_tokens else 0,
        threads=target.limits.threads,
    )
    return replace(draft, limits=limits)
