"""The gateway's certificates: files beside its settings, looked at before it listens."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.client.certificates import Certificates, issue

from fathom_server.errors import SettingsError
from fathom_server.gateway.server import check_tls
from fathom_server.gateway.settings import GatewaySettings


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority that nobody else knows."""
    return issue(tmp_path_factory.mktemp("certificates"))


def test_paths_are_relative_to_the_settings(certificates: Certificates) -> None:
    """Certificate, key and authority are found beside the file that names them."""
    folder = certificates.server.parent
    (folder / "gateway.toml").write_text(
        f'tls_cert = "{certificates.server.name}"\ntls_key = "{certificates.server_key.name}"\n'
        f'target_ca = "{certificates.ca.name}"\ntarget_server_name = "triton.test"\n'
    )
    settings = GatewaySettings.load(folder / "gateway.toml")
    assert (settings.tls_cert, settings.tls_key) == (certificates.server, certificates.server_key)
    assert (settings.target_ca, settings.target_server_name) == (certificates.ca, "triton.test")
    check_tls(settings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tls_cert": Path("a")}, "only one of tls_cert and tls_key is given"),
        ({"target_ca": Path("a"), "target_key": Path("b")}, "only one of target_cert and target_key is given"),
        ({"target_cert": Path("a"), "target_key": Path("b")}, "need target_ca"),
        ({"target_server_name": "triton"}, "need target_ca"),
    ],
)
def test_halves_are_refused(values: dict[str, Path | str], words: str) -> None:
    """A certificate without its key, and anything of a server that nobody vouches for, are errors of the settings."""
    with pytest.raises(SettingsError, match=words):
        GatewaySettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["tls_cert", "tls_key", "target_ca"])
def test_files_that_cannot_be_used_end_the_start_with_one_line(
    certificates: Certificates, tmp_path: Path, wrong: str
) -> None:
    """A key of another certificate, a file that is not there, and one that is no PEM are named before it listens."""
    files = {"tls_cert": certificates.server, "tls_key": certificates.server_key, "target_ca": certificates.ca}
    (tmp_path / "no.pem").write_text("no certificate")
    files[wrong] = {"tls_key": certificates.client_key, "tls_cert": tmp_path / "none.pem"}.get(
        wrong, tmp_path / "no.pem"
    )
    config = tmp_path / "gateway.toml"
    config.write_text("".join(f'{name} = "{file}"\n' for name, file in files.items()))
    command = [sys.executable, "-m", "fathom_server.gateway", "--config", str(config), "--port", "29471"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert str(files[wrong]) in line
    assert "Traceback" not in result.stderr
