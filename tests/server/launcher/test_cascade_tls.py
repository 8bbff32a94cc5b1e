"""A cascade is not started where it could not reach its models."""

from pathlib import Path

import pytest

from fathom_server.errors import SettingsError
from fathom_server.launcher.repository_check import refuse_cascades


def test_a_cascade_is_refused_where_grpc_is_encrypted(tmp_path: Path) -> None:
    """It asks its models over the server's own gRPC, without TLS: the launcher says so before anything starts."""
    for model, backend in (("small", "fathom"), ("chat", "cascade")):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.pbtxt").write_text(f'name: "{model}"\nbackend: "{backend}"\n')
    refuse_cascades(tmp_path, ["small"])
    with pytest.raises(SettingsError, match="chat is a cascade, which asks its models over this server's gRPC"):
        refuse_cascades(tmp_path, ["chat", "small"])
