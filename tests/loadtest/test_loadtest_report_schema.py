"""The published schema of report.json is that of the types, and reports of every kind keep it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.loadtest.recorded_runs import make_report

from fathom_loadtest.report.schema import report_schema, report_schema_text

PUBLISHED = Path(__file__).parents[2] / "docs" / "report.schema.json"


def test_the_published_schema_is_that_of_the_types() -> None:
    """What ``fathom-load schema --of report`` prints is what docs/ holds."""
    assert PUBLISHED.read_text(encoding="utf-8") == report_schema_text()


@pytest.mark.parametrize(
    ("users", "settings"),
    [
        ((1, 4), {"served": True}),
        ((4,), {"rates": (8.0,)}),
        ((2,), {"task": "embed"}),
        ((2,), {"fail_every": 1, "ending": "server_lost", "ending_message": "gone"}),
    ],
)
def test_reports_keep_the_schema(users: tuple[int, ...], settings: dict[str, Any]) -> None:
    """Every field is there and of its type, and there are no others."""
    written = json.loads(json.dumps(make_report(*users, **settings).to_json()))
    jsonschema.validate(written, report_schema(), jsonschema.Draft202012Validator)


def test_the_schema_refuses_what_is_no_report() -> None:
    """A missing field, a further one and another version are each found."""
    written = json.loads(json.dumps(make_report(2).to_json()))
    for change in ({"schema": "fathom-loadtest/1"}, {"stages": None}, {"further": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(written | change, report_schema())
