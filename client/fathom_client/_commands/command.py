"""A command as the parser knows it."""

import argparse
from collections.abc import Callable

Run = Callable[[argparse.Namespace], int]
"""Runs a command, returns its exit status; raises FathomError."""


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Run,
    help_: str,
    *examples: str,
) -> argparse.ArgumentParser:
    """Add a command with its examples; returns its parser for its flags."""
    added = commands.add_parser(
        name,
        help=help_,
        description=f"{help_[0].upper()}{help_[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.epilog = "\n".join(["examples:", *(f"  {added.prog} {example}".rstrip() for example in examples)])
    added.set_defaults(run=run)
    return added
