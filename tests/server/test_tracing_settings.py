"""What may be asked of traces and logs, and what is refused with a sentence."""

import json
import logging
from pathlib import Path

import pytest

from fathom_server import tracing
from fathom_server.errors import SettingsError
from fathom_server.gateway.settings import GatewaySettings
from fathom_server.json_log import FIELDS, FORMAT_VARIABLE, JsonFormatter
from fathom_server.launcher.settings import LaunchSettings
from fathom_server.launcher.triton_log import LogForwarder, LogLine, say


@pytest.mark.parametrize("address", ["http://localhost:4318", "https://collector.example/", "http://[::1]:4318"])
def test_a_collectors_address_is_taken(address: str, tmp_path: Path) -> None:
    """Scheme, host and port; spans go to OTLP's own path."""
    assert LaunchSettings(tmp_path, otlp_endpoint=address).otlp_endpoint == address
    assert tracing.traces_url(address) == address.rstrip("/") + "/v1/traces"


@pytest.mark.parametrize(
    "address",
    [
        "localhost:4318",
        "grpc://localhost:4317",
        "http://",
        "http://h:port",
        "http://h:70000",
        "http://h/v1/traces",
        "http://h?a=b",
    ],
)
def test_what_is_no_collectors_address_is_refused(address: str, tmp_path: Path) -> None:
    """The flag, the value and what to give instead; a gateway's file is told with its key."""
    with pytest.raises(SettingsError, match=r"--otlp-endpoint is .* such as http://localhost:4318"):
        LaunchSettings(tmp_path, otlp_endpoint=address)
    (tmp_path / "gateway.toml").write_text(f"otlp_endpoint = {json.dumps(address)}\n")
    with pytest.raises(SettingsError, match=r"gateway\.toml: otlp_endpoint is"):
        GatewaySettings.load(tmp_path / "gateway.toml")


def test_a_missing_sdk_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenTelemetry's packages nothing starts that could not trace."""
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"--otlp-endpoint needs OpenTelemetry's SDK; install it with .*\[otel\]"):
        LaunchSettings(tmp_path, otlp_endpoint="http://localhost:4318")


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_of_traces_is_from_0_to_1(share: float) -> None:
    """Anything else is refused with its value."""
    with pytest.raises(SettingsError, match=f"trace_share is {share:g}; it must be from 0 to 1"):
        GatewaySettings(trace_share=share)


def test_an_unknown_log_format_is_refused(tmp_path: Path) -> None:
    """The valid ones are named."""
    with pytest.raises(SettingsError, match="--log-format is 'xml'; valid: text, json"):
        LaunchSettings(tmp_path, log_format="xml")  # type: ignore[arg-type]


def test_lines_of_triton_and_launcher_become_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton's lines keep level and message, a model's JSON goes on as it is, a traceback's lines are messages, too."""
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    own = '{"time":"2026-01-01T00:00:00.000+00:00","level":"warning","logger":"fathom.engine","message":"so"}'
    forwarder = LogForwarder("warning", None, has_gpu=False)
    for text in (
        'E1121 21:03:21.123456 7 model.cc:12] "failed to load \\"chat\\""',
        "I1121 21:03:21.123456 7 model.cc:12] not shown",
        own,
        own.replace("warning", "info"),
        '{"time": broken',
        "Traceback (most recent call last):",
        "",
    ):
        forwarder.forward(LogLine.parse(text))
    say("error: no model is ready")
    say("stopping")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["logger"], line["message"]) for line in lines] == [
        ("error", "triton", 'failed to load "chat"'),
        ("warning", "fathom.engine", "so"),
        ("info", "triton", '{"time": broken'),
        ("info", "triton", "Traceback (most recent call last):"),
        ("error", "fathom.serve", "no model is ready"),
        ("info", "fathom.serve", "stopping"),
    ]


def test_a_fault_is_one_line_with_its_traceback() -> None:
    """Further fields and the traceback are members of the object."""
    try:
        raise ValueError("no")
    except ValueError as error:
        record = logging.LogRecord(
            "fathom.engine", logging.ERROR, "", 0, "request %s", ("r",), (ValueError, error, error.__traceback__)
        )
    setattr(record, FIELDS, {"request_id": "r"})
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"], line["request_id"]) == ("error", "request r", "r")
    assert line["traceback"].endswith("ValueError: no")
