"""The command line of ``fathom-gateway``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fathom_server.errors import FathomServerError
from fathom_server.gateway.settings import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_TARGET, GatewaySettings


def build_parser() -> argparse.ArgumentParser:
    """All flags of ``fathom-gateway``."""
    parser = argparse.ArgumentParser(
        prog="fathom-gateway",
        description="Give a running Triton OpenAI's HTTP API. fathom-serve --openai-port starts one beside Triton.",
        epilog="A flag stands above the same setting in --config. SIGTERM or Ctrl-C stops: running answers finish, for "
        "at most drain_s seconds; again: at once.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings as TOML: limits, keys, CORS, timeouts; see docs/gateway.md",
    )
    parser.add_argument("--target", metavar="HOST:PORT", help=f"Triton's gRPC service (default: {DEFAULT_TARGET})")
    parser.add_argument("--host", help=f"address to listen on (default: {DEFAULT_HOST})")
    parser.add_argument("--port", type=int, metavar="N", help=f"(default: {DEFAULT_PORT})")
    parser.add_argument(
        "--keys", type=Path, metavar="PATH", help="file of API keys, or a folder (default: none needed)"
    )
    parser.add_argument("--drain-s", type=float, metavar="S", help="seconds in which a stop is complete (default: 30)")
    parser.add_argument("--log-prompts", action="store_true", default=None, help="let prompts and answers into the log")
    parser.add_argument(
        "--otlp-endpoint",
        metavar="URL",
        help="send traces to this collector (OTLP over HTTP); see docs/observability.md",
    )
    return parser


def read_settings(argv: list[str] | None) -> GatewaySettings:
    """The settings of the flags and of the file that they name; raises SettingsError."""
    arguments: dict[str, Any] = vars(build_parser().parse_args(argv))
    file = arguments.pop("config")
    given = {name: value for name, value in arguments.items() if value is not None}
    return GatewaySettings(**given) if file is None else GatewaySettings.load(file, **given)


def main(argv: list[str] | None = None) -> int:
    """Run ``fathom-gateway``; returns its exit status: 2 for what the caller can mend before it listens."""
    try:
        settings = read_settings(argv)
        from fathom_server.gateway.server import run

        return run(settings)
    except FathomServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
