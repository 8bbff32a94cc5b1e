"""A real Chromium, through playwright; tests of pages skip where there is none."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP, PHONE = 1280, 390


@dataclass
class Visit:
    """An open page, and what happened on it: errors, and the addresses that it asked."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, address: str) -> None:
        """Go there and wait until everything has arrived."""
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.errors.append(f"{request.url} failed"))
        self.page.goto(address, wait_until="load")

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def ask(self, script: str, argument: object = None) -> Any:
        """Evaluate a function in the page."""
        return self.page.evaluate(script, argument)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for a module's tests; its driver has an event loop, which others would trip over if it stayed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    installed = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        if installed is None and not Path(own).exists():
            pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}, or run `playwright install chromium`")
        opened = driver.chromium.launch(executable_path=installed or own, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Open a page in a window of its own: ``visit(address, width=…, dark=…)``."""
    windows = []

    def go(address: str, *, width: int = DESKTOP, dark: bool = False) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light", has_touch=width == PHONE
        )
        windows.append(context)
        opened = Visit(context.new_page())
        opened.open(address)
        return opened

    yield go
    for context in windows:
        context.close()
