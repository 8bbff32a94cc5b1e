"""The JSON schema and the manual of a bundle, held to the types that read it."""

import json
import tomllib
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fathom_export.cli import main
from fathom_export.errors import SpecError
from fathom_export.spec import read_bundle, read_model
from fathom_export.spec.key import TypedKey, keys_of
from fathom_export.spec.model_spec import ENGINES, KINDS, task_of
from fathom_export.spec.schema import bundle_schema

ROOT = Path(__file__).parents[2]
MODEL: dict[str, Any] = {"name": "m", "source": "here"}


def accepts(bundle: dict[str, Any]) -> bool:
    """Whether the schema takes a bundle."""
    return jsonschema.Draft202012Validator(bundle_schema()).is_valid(bundle)


def test_the_committed_schema_and_manual_are_those_of_the_types(capsys: pytest.CaptureFixture[str]) -> None:
    """``fathom-export schema`` prints, byte for byte, what docs/ holds."""
    for arguments, file in ((["schema"], "bundle.schema.json"), (["schema", "--format", "markdown"], "spec.md")):
        assert main(arguments) == 0
        assert capsys.readouterr().out == (ROOT / "docs" / file).read_text(encoding="utf-8")


def test_the_schema_is_one_and_takes_the_demos_bundle() -> None:
    """It is valid JSON Schema 2020-12, and the bundle at the root passes it."""
    jsonschema.Draft202012Validator.check_schema(bundle_schema())
    assert accepts(tomllib.loads((ROOT / "bundle.toml").read_text()))


def test_every_key_is_in_the_manual_with_its_meaning() -> None:
    """Each key of each task and table has a row, and each says something."""
    manual = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    for spec in KINDS.values():
        for key in keys_of(spec).values():
            for inner in [key, *(keys_of(key.subtable).values() if key.subtable else ())]:
                assert inner.key.help, inner.name
                assert f"| `{inner.name}` |" in manual


def head(kind: str) -> dict[str, Any]:
    """How a model's table says that it is of a kind, with what every such model must say."""
    needed = {"cascade": {"small": "s", "large": "l"}} if kind == "cascade" else {}
    return {"task": task_of(kind), **({"engine": kind} if kind in ENGINES else {}), **needed}


def numbers() -> list[tuple[str, str, TypedKey]]:
    """Kind, table and key of every number in a table of every spec."""
    return [
        (kind, key.name, inner)
        for kind, spec in KINDS.items()
        for key in keys_of(spec).values()
        if key.subtable is not None
        for inner in keys_of(key.subtable).values()
        if inner.kind in (int, float) and inner.key.minimum is not None
    ]


@pytest.mark.parametrize(("kind", "table", "key"), numbers(), ids=lambda value: getattr(value, "name", str(value)))
def test_reader_and_schema_agree_on_bounds(kind: str, table: str, key: TypedKey) -> None:
    """A number at its bound is taken by both, one below it by neither."""
    assert key.default is not MISSING
    for number, good in ((key.key.minimum, True), (key.key.minimum - 1, False)):
        model = {**MODEL, **head(kind), table: {**head(kind).get(table, {}), key.name: number}}
        if not good:
            with pytest.raises(SpecError, match=key.name):
                read_model(model, "")
        else:
            message = ""
            try:
                read_model(model, "")
            except SpecError as error:  # in its range, but not without another key
                message = str(error)
            assert "must not be negative" not in message
            assert "must be at least" not in message
        assert accepts({"models": [model]}) is good


@pytest.mark.parametrize(
    ("bundle", "part"),
    [
        ({"models": []}, "models"),
        ({"models": [{**MODEL}]}, "task"),
        ({"models": [{**MODEL, "task": "sing"}]}, "task"),
        ({"models": [{**MODEL, "task": "generate", "precison": "int8"}]}, "precison"),
        ({"models": [{**MODEL, "task": "generate", "name": "a/b"}]}, "name"),
        ({"models": [{**MODEL, "task": "generate", "limits": {"max_batch": "3"}}]}, "max_batch"),
        ({"models": [{**MODEL, "task": "generate", "limits": {"max_batch": 1 << 40}}]}, "max_batch"),
        ({"models": [{**MODEL, "task": "generate", "serving": {"response_cache": True}}]}, "response_cache"),
        ({"models": [{**MODEL, "task": "embed", "serving": {"response_cache": 1}}]}, "response_cache"),
        ({"models": [{**MODEL, "task": "embed", "serving": {"preferred_batch_sizes": [0]}}]}, "preferred_batch_sizes"),
        ({"models": [{**MODEL, "task": "embed", "serving": {"preferred_batch_sizes": 4}}]}, "preferred_batch_sizes"),
        ({"models": [{**MODEL, "task": "embed", "serving": {"rate_limit_resources": {"a": -1}}}]}, "resources"),
        ({"models": [{**MODEL, "task": "embed", "serving": {"instance_kind": "tpu"}}]}, "instance_kind"),
        ({"repository": 3, "models": [{**MODEL, "task": "embed"}]}, "repository"),
    ],
)
def test_what_the_reader_refuses_the_editor_marks(tmp_path: Path, bundle: dict[str, Any], part: str) -> None:
    """A mistake in a key, a type or a value is one in the schema too."""
    assert not accepts(bundle)
    lines = [f"{key} = {json.dumps(value)}" for key, value in bundle.items() if key != "models"]
    for model in bundle["models"]:
        lines.append("[[models]]")
        for key, value in model.items():
            if isinstance(value, dict):
                inner = ", ".join(
                    f"{name} = {{ {', '.join(f'{a} = {b}' for a, b in entry.items())} }}"
                    if isinstance(entry, dict)
                    else f"{name} = {json.dumps(entry)}"
                    for name, entry in value.items()
                )
                lines.append(f"{key} = {{ {inner} }}")
            else:
                lines.append(f"{key} = {json.dumps(value)}")
    (tmp_path / "bundle.toml").write_text("\n".join(lines))
    with pytest.raises(SpecError, match=part):
        read_bundle(tmp_path / "bundle.toml")


def test_values_that_do_not_go_together_are_refused() -> None:
    """A preferred batch above the largest batch names both keys."""
    model = {**MODEL, "task": "embed", "limits": {"max_batch": 4}, "serving": {"preferred_batch_sizes": [2, 8]}}
    with pytest.raises(SpecError, match=r"models\[0\]\.serving\.preferred_batch_sizes holds 8, but limits\.max_batch"):
        read_model(model, "models[0]")
