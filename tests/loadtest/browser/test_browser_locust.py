"""Locust's own web UI over our users, in a real browser."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.loadtest.command import finish, start, write_prompts
from tests.loadtest.test_load_web_ui import wait_until_served

if TYPE_CHECKING:
    from conftest import Triton, Visit


@pytest.mark.parametrize("width", [1280, 390])
def test_a_test_is_started_watched_and_stopped_in_the_ui(
    width: int, triton: "Triton", visit: "Callable[..., Visit]", tmp_path: Path
) -> None:
    """Users are asked for in the form, their requests show in the table, and the exact report follows."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    prompts = write_prompts(tmp_path, "hello there")
    process = start(triton, tmp_path / "out", ["--model", "paced", "--prompts", prompts, "--web-ui", port])
    try:
        wait_until_served(port, process)
        shown = visit(f"http://127.0.0.1:{port}/", width=width)
        page = shown.page
        page.locator("input[name='userCount']").fill("2")
        page.get_by_role("button", name="Start").click()
        row = page.get_by_role("cell", name="paced", exact=True).first
        row.wait_for(timeout=30_000)
        assert shown.ask("() => document.documentElement.scrollWidth") <= width
        if width < 900:  # there the buttons are behind the menu
            page.get_by_role("button", name="menu").click()
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_text("Stopped").first.wait_for(state="attached", timeout=30_000)
        process.send_signal(signal.SIGINT)
    except BaseException:
        process.kill()
        raise
    done = finish(process, tmp_path / "out")
    assert done.status == 0, done.stderr
    assert [stage["users"] for stage in done.report["stages"]] == [2]
    assert done.figures()["succeeded"] >= 1
    assert [error for error in shown.errors if "ERR_CONNECTION_REFUSED" not in error] == []
    assert {address.split("/")[2] for address in shown.requests if address.startswith("http")} == {f"127.0.0.1:{port}"}
