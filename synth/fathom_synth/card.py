"""The data card: what the data is, who wrote it, under which licence, what was dropped; JSON, and Markdown of it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fathom_synth.errors import OutputError

CARD_JSON: Final = "card.json"
CARD_MARKDOWN: Final = "README.md"
CARD_VERSION: Final = 1


def render_card(card: Mapping[str, Any]) -> str:
    """The card as Markdown, with the front matter that hubs of data sets read."""
    teacher, licence = card["teacher"], card["licence"]
    lines = [
        "---",
        "tags:",
        "- synthetic",
        "task_categories:",
        "- text-generation",
        f"size_categories:\n- {_size_category(card['rows'])}",
        "---",
        "",
        "# Synthetic training data",
        "",
        f"{card['rows']:,} conversations, {card['answer_tokens']:,} tokens of answers, written by a model; made by "
        f"{card['tool']} on {card['created']}.",
        "",
        "| | |",
        "|---|---|",
        f"| file | `{card['file']}`, SHA-256 `{card['sha256']}` |",
        f"| teacher | `{teacher['model']}` ({teacher['source']}), revision `{teacher['revision']}` |",
        f"| teacher's licence | {licence['licence']}: training on its answers is {_training(licence)} |",
    ]
    if licence["source"]:
        lines.append(f"| where it says so | {licence['source']} |")
    if licence["override"]:
        lines.append(f'| **taken on by the user** | `override_licence = "{licence["override"]}"` |')
    lines += [
        "",
        "## Prompts",
        "",
        "| prompt | seeds | sampling | prompts | answers | rows |",
        "|---|---|---|---|---|---|",
    ]
    for prompt in card["prompts"]:
        sampling = ", ".join(f"{name} {value}" for name, value in prompt["sampling"].items())
        lines.append(
            f"| {prompt['name']} | {prompt['seeds'] or 'none'} | {sampling} | {prompt['prompts']:,} "
            f"| {prompt['answers']:,} | {prompt['rows']:,} |"
        )
    lines += ["", "## Filters", "", "In this order.", ""]
    lines += ["| filter | settings | came | dropped | why |", "|---|---|---|---|---|"]
    for stage in card["filters"]:
        settings = ", ".join(f"{name} {_short(value)}" for name, value in stage["settings"].items())
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in stage["reasons"].items())
        lines.append(f"| {stage['filter']} | {settings} | {stage['seen']:,} | {stage['dropped']:,} | {reasons} |")
    lines += [
        "",
        f"{card['answers']:,} answers came, {card['rows']:,} passed. {card['malformed']:,} rows of seeds were "
        f"malformed and {card['refused']:,} prompts refused by the server (`quarantine.jsonl`).",
        "",
        "## Provenance",
        "",
        "Each row's `provenance` holds teacher, revision, licence and what was decided on it, the prompt's template "
        "and line of seeds, the sampling with its seed, and every score that a filter gave.",
        "",
    ]
    return "\n".join(lines)


def read_card(folder: Path) -> dict[str, Any]:
    """Read a folder's card and hold its data against it. Raises OutputError where they do not fit together."""
    path = folder / CARD_JSON
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        name, expected = card["file"], card["sha256"]
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); name the output of a finished job") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(f"{path}: is no data card; run the job again") from error
    if hash_file(folder / name) != expected:
        raise OutputError(f"{folder / name}: is not the file that its card describes; run the job again")
    return card


def hash_file(path: Path) -> str:
    """A file's SHA-256. Raises OutputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); run the job again") from error


def _training(licence: Mapping[str, Any]) -> str:
    said = {
        "allowed": "allowed",
        "conditional": "allowed on conditions",
        "forbidden": "forbidden",
        "unknown": "not known",
    }
    text = said[licence["training"]]
    return f"{text} ({licence['conditions']})" if licence["conditions"] else text


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    text = " ".join(text.replace("|", "\\|").split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def _size_category(rows: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "n>1M"
