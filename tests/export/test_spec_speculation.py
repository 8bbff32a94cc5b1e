"""What a bundle may say of speculation."""

import json
from pathlib import Path

import pytest

from fathom_export.errors import SpecError
from fathom_export.spec import GenerateSpec, read_bundle, spec_settings
from fathom_server.engine.settings import EngineLimits, EngineSettings, GraphDescription, SpeculationSettings

MODEL = '[[models]]\nname = "chat"\nsource = "here"\ntask = "generate"\n'
SMALL = '[[models]]\nname = "small"\nsource = "there"\ntask = "generate"\n'


def read(folder: Path, text: str) -> list[GenerateSpec]:
    """The LLMs of a bundle of this text."""
    (folder / "bundle.toml").write_text(text)
    return [spec for spec in read_bundle(folder / "bundle.toml").models if isinstance(spec, GenerateSpec)]


@pytest.mark.parametrize("draft", ["small", "small/2"])
def test_a_draft_model_is_another_of_the_bundle(tmp_path: Path, draft: str) -> None:
    """By its name, or by its name and a version; the engine reads what the spec says, and the passport holds it."""
    table = f'[models.speculation]\nmethod = "draft"\ndraft = "{draft}"\nmax_draft_tokens = 5\n'
    chat, small = read(tmp_path, MODEL + table + SMALL)
    assert chat.speculation.engine_settings() == SpeculationSettings("draft", draft, 5)
    assert small.speculation.engine_settings() == SpeculationSettings()
    assert spec_settings(chat)["speculation"] == {"method": "draft", "draft": draft, "max_draft_tokens": 5}


def test_engine_json_holds_it_and_may_lack_it(tmp_path: Path) -> None:
    """What is written is read again; a file from before speculation means none."""
    graph = GraphDescription("cpu", "fp32", 1, 1, 8, 10, 64)
    settings = EngineSettings(
        graph, EngineLimits(max_context=64), (2,), SpeculationSettings("prompt_lookup", max_draft_tokens=3)
    )
    settings.save(tmp_path)
    assert EngineSettings.load(tmp_path) == settings
    raw = json.loads((tmp_path / "engine.json").read_text())
    del raw["speculation"]
    (tmp_path / "engine.json").write_text(json.dumps(raw))
    assert EngineSettings.load(tmp_path).speculation == SpeculationSettings()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            MODEL + 'speculation = { method = "lookup" }\n',
            ["models[0].speculation.method is 'lookup'", "prompt_lookup"],
        ),
        (MODEL + 'speculation = { method = "draft" }\n', ["speculation.draft names no model", "name one"]),
        (
            MODEL + 'speculation = { draft = "small" }\n' + SMALL,
            ["speculation.method is 'none'", "set that to 'draft'"],
        ),
        (
            MODEL + 'speculation = { method = "draft", draft = "smal" }\n' + SMALL,
            ["models[0].speculation.draft is 'smal'", "name one of small"],
        ),
        (
            MODEL + 'speculation = { method = "draft", draft = "chat" }\n',
            ["models[0].speculation.draft is 'chat'", "another [[models]] table"],
        ),
        (
            MODEL + 'speculation = { method = "prompt_lookup", max_draft_tokens = 0 }\n',
            ["speculation.max_draft_tokens is 0", "at least 1"],
        ),
        (
            MODEL + 'speculation = { method = "prompt_lookup", max_draft_tokens = 33 }\n',
            ["speculation.max_draft_tokens is 33", "between 1 and 32"],
        ),
        (MODEL.replace("generate", "embed") + "speculation = { }\n", ["models[0].speculation is not a known key"]),
    ],
)
def test_a_mistake_names_key_and_remedy(tmp_path: Path, text: str, parts: list[str]) -> None:
    """Every mistake is refused with its key and what would do."""
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    for part in parts:
        assert part in str(caught.value)
