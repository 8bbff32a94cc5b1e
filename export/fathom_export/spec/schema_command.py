"""``fathom-export schema``: what a bundle may say, for editors and for readers."""

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Print the JSON schema of a bundle, or its manual; returns the exit status."""
    from fathom_export.spec.manual import bundle_manual
    from fathom_export.spec.schema import bundle_schema_text

    parser = argparse.ArgumentParser(
        prog="fathom-export schema",
        description="Print what a bundle.toml may say. Editors take the JSON schema from a first line "
        "`#:schema docs/bundle.schema.json`.",
    )
    parser.add_argument(
        "--format", choices=("json", "markdown"), default="json", help="JSON schema, or the manual (docs/spec.md)"
    )
    sys.stdout.write(bundle_schema_text() if parser.parse_args(argv).format == "json" else bundle_manual())
    return 0
