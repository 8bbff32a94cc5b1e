"""``fathom-client``: models that Triton serves, from the command line."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from fathom_client._commands import chat, completion, encoders, exit_status, generate, server, tokenize
from fathom_client._commands.connection import add_connection
from fathom_client.errors import FathomError

if TYPE_CHECKING:
    from fathom_client._commands.command import Run

_EPILOG = """\
exit status:
  0    done
  1    the server's fault, a server that is not ready, a failed line of --jsonl
  2    the caller's fault: flags, input, a model that is not there
  130  Ctrl-C
  141  the reader of the output left
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 2 for the caller's faults, 1 for the server's, 130 after Ctrl-C."""
    options = build_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr] # a TextIOWrapper
    run = cast("Run", options.run)
    try:
        try:
            return run(options)
        except FathomError as error:
            return exit_status.report(error)
        finally:
            print(end="", flush=True)
    except KeyboardInterrupt:
        return exit_status.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit stays quiet
        return exit_status.PIPE_CLOSED


def build_parser() -> argparse.ArgumentParser:
    """All flags of ``fathom-client``."""
    parser = argparse.ArgumentParser(
        prog="fathom-client",
        description="Use models that Fathom serves on Triton.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_connection(parser, is_inherited=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    generate.add(commands)
    chat.add(commands)
    encoders.add(commands)
    tokenize.add(commands)
    server.add(commands)
    for command in commands.choices.values():
        add_connection(command, is_inherited=True)  # the flags may stand before or after the command
    completion.add(commands, parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
