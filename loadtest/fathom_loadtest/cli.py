"""``fathom-load``: the command line. Nothing heavy is imported before the arguments are known to be right."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

from fathom_loadtest import __version__
from fathom_loadtest.errors import LoadTestError, ServerError

COMMANDS: Final = ("run", "compare", "gate", "schema", "twin", "worker")
"""The subcommands, modules of ``fathom_loadtest.commands``, in the order in which help shows them."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``fathom-load``."""
    parser = _Parser(prog="fathom-load", description="Load tests of models on Triton over gRPC, and what came of them.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"fathom_loadtest.commands.{name}")
        command = commands.add_parser(
            name, help=module.HELP, description=f"{module.HELP[:1].upper()}{module.HELP[1:]}."
        )
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fathom-load``; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = build_parser().parse_args(arguments)
    try:
        return int(options.main(options, shlex.join(["fathom-load", *arguments])))
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
