"""The command line of ``fathom-serve``."""

import argparse
import sys
from pathlib import Path
from typing import Final

from fathom_server.errors import FathomServerError
from fathom_server.gateway.settings import DEFAULT_PORT
from fathom_server.launcher.settings import (
    DEFAULT_GRPC_PORT,
    DEFAULT_HOST,
    DEFAULT_HTTP_PORT,
    DEFAULT_METRICS_PORT,
    LaunchSettings,
)

USUAL_PORT: Final = -1
"""Stands for a port that is not named."""


def build_parser() -> argparse.ArgumentParser:
    """All flags of ``fathom-serve``."""
    parser = argparse.ArgumentParser(
        prog="fathom-serve",
        description="Serve a model repository on NVIDIA Triton. When every model is ready, one line of JSON with the "
        "ports goes to stdout; everything else goes to stderr.",
        epilog="SIGTERM or Ctrl-C stops: running requests finish, for at most --drain-s seconds; again: at once.",
    )
    parser.add_argument(
        "repository", nargs="?", type=Path, default=Path("model_repository"), metavar="REPOSITORY",
        help="folder of models (default: %(default)s)",
    )  # fmt: skip
    where = parser.add_argument_group("where it listens")
    where.add_argument(
        "--host", default=DEFAULT_HOST, help="address to listen on; 0.0.0.0 in a container (default: %(default)s)"
    )
    where.add_argument("--ports", choices=["auto"], help="take free ports where no flag names one")
    where.add_argument("--grpc-port", type=int, metavar="N", help=f"(default: {DEFAULT_GRPC_PORT})")
    where.add_argument("--http-port", type=int, metavar="N", help=f"(default: {DEFAULT_HTTP_PORT})")
    where.add_argument("--metrics-port", type=int, metavar="N", help=f"(default: {DEFAULT_METRICS_PORT})")
    where.add_argument(
        "--openai-port", type=int, nargs="?", const=USUAL_PORT, metavar="N",
        help=f"serve OpenAI's API over HTTP as well (without N: {DEFAULT_PORT}; put REPOSITORY before it)",
    )  # fmt: skip
    where.add_argument(
        "--openai-config", type=Path, metavar="FILE", help="keys, limits and more of that API; see docs/gateway.md"
    )
    where.add_argument(
        "--ports-file", type=Path, metavar="FILE", help="write ports and pid there as JSON while the server is ready"
    )
    life = parser.add_argument_group("start and stop")
    life.add_argument("--tritonserver", type=Path, metavar="PATH", help="the program to run (default: the first found)")
    life.add_argument(
        "--ready-timeout-s", type=float, default=600.0, metavar="S",
        help="give up when the models are not ready after this many seconds (default: %(default)g)",
    )  # fmt: skip
    life.add_argument(
        "--drain-s", type=float, default=30.0, metavar="S",
        help="seconds in which a stop is complete, running requests included (default: %(default)g)",
    )  # fmt: skip
    life.add_argument(
        "--auto-complete-config", action="store_true",
        help="let backends complete hand-written config.pbtxt files; every Python model then starts twice",
    )  # fmt: skip
    life.add_argument(
        "--cache-mb", type=int, default=64, metavar="MB",
        help="size of the response cache, which is there if a model's config.pbtxt asks for it (default: %(default)s)",
    )  # fmt: skip
    guard = parser.add_argument_group(
        "protection", "docs/security.md; the admin key may also stand in the environment as FATHOM_ADMIN_KEY"
    )
    guard.add_argument("--tls-cert", type=Path, metavar="FILE", help="encrypt gRPC: the server's certificate (PEM)")
    guard.add_argument("--tls-key", type=Path, metavar="FILE", help="the certificate's key")
    guard.add_argument(
        "--tls-client-ca", type=Path, metavar="FILE", help="let in only callers with a certificate signed by this one"
    )
    guard.add_argument(
        "--admin-key-file", type=Path, metavar="FILE",
        help="key of Triton's trace and log settings (default: nobody has them)",
    )  # fmt: skip
    log = parser.add_argument_group("log")
    log.add_argument(
        "--log-level", choices=["info", "warning", "error"], default="info",
        help="lowest level of Triton's lines shown on stderr (default: %(default)s)",
    )  # fmt: skip
    log.add_argument(
        "--log-format", choices=["text", "json"], default="text",
        help="json: lines of stderr are objects, and each LLM request leaves one with its id (default: %(default)s)",
    )  # fmt: skip
    log.add_argument(
        "--otlp-endpoint", default="", metavar="URL",
        help="send traces of gateway, Triton and engine to this collector (OTLP over HTTP); see docs/observability.md",
    )  # fmt: skip
    log.add_argument("--log-file", type=Path, metavar="FILE", help="append every line of Triton's log to this file")
    log.add_argument(
        "--termination-log", type=Path, metavar="FILE",
        help="write there in one line why a server failed (default: Kubernetes' own file, where there is one)",
    )  # fmt: skip
    log.add_argument("--log-verbose", type=int, default=0, metavar="N", help="Triton's verbosity (default: 0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run ``fathom-serve``; returns its exit status: 2 for what the caller can mend before Triton starts."""
    arguments = vars(build_parser().parse_args(argv))
    auto_ports = arguments.pop("ports") == "auto"
    gateway = arguments["openai_port"] is not None
    if arguments["openai_port"] == USUAL_PORT:
        arguments["openai_port"] = None
    try:
        settings = LaunchSettings(auto_ports=auto_ports, gateway=gateway, **arguments)
        from fathom_server.launcher.serve import serve

        return serve(settings)
    except FathomServerError as error:
        from fathom_server.launcher.last_words import leave_last_words

        print(f"error: {error}", file=sys.stderr)
        leave_last_words(arguments["termination_log"], str(error))
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
