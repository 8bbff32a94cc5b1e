"""``fathom-load worker``: send a part of the load that a master elsewhere leads."""

import argparse
from pathlib import Path
from typing import Final

from fathom_loadtest.errors import WorkerError
from fathom_loadtest.workers.secret import VARIABLE, WorkerSecret

HELP: Final = "send a part of the load of a run elsewhere (fathom-load run --expect-workers)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("master", metavar="HOST:PORT", help="where the run listens for workers")
    parser.add_argument(
        "--secret-file", type=Path, help=f"file with the secret that run and workers share (default: ${VARIABLE})"
    )
    parser.add_argument("--end-with-input", action="store_true", help="end when standard input is closed")


def main(options: argparse.Namespace, command: str) -> int:
    """Work until the master lets go; gives the exit status."""
    host, port = read_address(options.master)
    secret = WorkerSecret.given(options.secret_file)
    from fathom_loadtest.process import make_cooperative

    make_cooperative()
    from fathom_loadtest.workers.worker import Worker

    return Worker(host, port, secret).run(end_with_input=options.end_with_input)


def read_address(text: str) -> tuple[str, int]:
    """Read HOST:PORT; raises WorkerError for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise WorkerError(f"{text!r} is no address; it must be HOST:PORT, such as 10.0.0.5:5557")
    return host, int(port)
