"""The pages in a real browser: they fit, can be read and reached, ask for nothing, and print whole."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.loadtest.recorded_runs import HOSTILE, make_report, save_run

from fathom_loadtest.compare.comparison import Tolerance, compare
from fathom_loadtest.compare.html import save_html as save_comparison
from fathom_loadtest.report.html import save_html
from fathom_loadtest.report.saved import SavedReport

if TYPE_CHECKING:
    from conftest import Visit

PAGES = ("report", "long", "comparison")
A4_POINTS = (595, 842)
MARGIN_POINTS = 14 / 25.4 * 72

CUT_OFF = """() => {
  const page = document.documentElement.clientWidth;
  const reachable = e => e.closest('.scroll, .scroll-plot') !== null;
  const cut = [...document.querySelectorAll('main *')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && !reachable(e.parentElement) && (box.left < -1 || box.right > page + 1);
  });
  return cut.map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`);
}"""

PALE_TEXT = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const pale = new Set();
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ['STYLE', 'TITLE'].includes(e.tagName)) continue;
    texts += 1;
    const style = getComputedStyle(e);
    const ink = light(parse(e.closest('svg') ? style.fill : style.color)), paper = light(behind(e));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) pale.add(`${contrast.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 30)}`);
  }
  return [texts, [...pale]];
}"""

UNNAMED = """() => {
  const found = [];
  for (const e of document.querySelectorAll('[role=img], [role=region], nav'))
    if (!(e.getAttribute('aria-label') || '').trim()) found.push(e.tagName);
  for (const e of document.querySelectorAll('th'))
    if (!e.getAttribute('scope')) found.push(`th ${e.textContent}`);
  for (const e of document.querySelectorAll('.scroll, .scroll-plot.wide'))
    if (e.tabIndex !== 0) found.push(`not reachable: ${e.getAttribute('aria-label')}`);
  let level = 0;
  for (const e of document.querySelectorAll('h1, h2, h3')) {
    const next = Number(e.tagName[1]);
    if (next > level + 1) found.push(`h${level} is followed by h${next} ${e.textContent}`);
    level = next;
  }
  return found;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of every kind of content with hostile names, one of many stages, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in PAGES}
    save_html(make_report(1, 4, 16, model=HOSTILE, served=True), paths["report"])
    save_html(make_report(*range(1, 13), rates=tuple(map(float, range(1, 13))), requests=60), paths["long"])
    runs = [SavedReport.read(save_run(folder / name, 4, 8, slower=slow)) for name, slow in (("a", 1.0), ("b", 1.5))]
    save_comparison(compare(*runs, Tolerance()), paths["comparison"])
    return paths


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_the_page_fits_and_can_be_read(
    name: str, width: int, dark: bool, pages: dict[str, Path], visit: "Callable[..., Visit]"
) -> None:
    """No error, no request, nothing beyond the window's edge, and every text has the contrast of WCAG's level AA."""
    shown = visit(pages[name].as_uri(), width=width, dark=dark)
    assert shown.errors == []
    assert shown.requests == [pages[name].as_uri()]
    assert shown.ask("() => document.documentElement.scrollWidth") <= width
    assert shown.ask(CUT_OFF) == []
    texts, pale = shown.ask(PALE_TEXT)
    assert texts > 100
    assert pale == []
    heights = shown.ask("() => [...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect().height)")
    assert len(heights) >= 2
    assert min(heights) > 100
    paper = shown.ask("() => getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize("name", PAGES)
def test_everything_has_a_name_and_can_be_reached(
    name: str, pages: dict[str, Path], visit: "Callable[..., Visit]"
) -> None:
    """Plots, regions and tables are named for a screen reader, headings step down one by one, Tab reaches all."""
    shown = visit(pages[name].as_uri())
    assert shown.ask(UNNAMED) == []
    wanted = shown.ask("() => document.querySelectorAll('a[href], summary, [tabindex=\"0\"]').length")
    reachable = shown.ask(
        "() => [...document.querySelectorAll('a[href], summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility()).length"
    )
    seen = set()
    for _ in range(reachable + 2):
        shown.page.keyboard.press("Tab")
        seen.add(
            shown.ask(
                "() => { const e = document.activeElement; const all = [...document.querySelectorAll('*')];"
                " return e === document.body ? -1 : all.indexOf(e); }"
            )
        )
    assert len(seen - {-1}) == reachable
    assert wanted >= reachable > 0


def test_plots_have_their_values_as_tables(pages: dict[str, Path], visit: "Callable[..., Visit]") -> None:
    """Under each plot the keyboard opens a table, and the plot's label says what the table begins and ends with."""
    shown = visit(pages["report"].as_uri())
    figures = shown.ask("() => document.querySelectorAll('figure').length")
    assert shown.ask("() => document.querySelectorAll('figure > details table tbody tr').length") >= figures
    summary = shown.page.locator("figure summary").first
    summary.focus()
    shown.page.keyboard.press("Enter")
    table = shown.page.locator("figure details table").first
    assert table.is_visible()
    label = shown.page.locator("figure svg").first.get_attribute("aria-label")
    for row in (table.locator("tbody tr").first, table.locator("tbody tr").last):
        for cell in row.locator("th, td").all_inner_texts():
            assert cell in label


def test_links_lead_to_their_sections(pages: dict[str, Path], visit: "Callable[..., Visit]") -> None:
    """Each link of the navigation brings its heading into view."""
    shown = visit(pages["report"].as_uri())
    links = shown.page.locator("nav a")
    assert links.count() >= 8
    for place in range(links.count()):
        links.nth(place).click()
        target = links.nth(place).get_attribute("href")
        assert shown.page.locator(f"h2{target}").inner_text() == links.nth(place).inner_text()
    assert shown.errors == []


@pytest.mark.parametrize("name", PAGES)
def test_the_page_prints_whole(
    name: str, pages: dict[str, Path], visit: "Callable[..., Visit]", tmp_path: Path
) -> None:
    """On A4 every text lies within the margins, every row of every table is there, and none is cut by a page's end."""
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    shown = visit(pages[name].as_uri(), dark=True)
    shown.page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True, print_background=True)
    document = pdfium.PdfDocument(tmp_path / "page.pdf")
    printed = ""
    for sheet in document:
        assert tuple(map(round, sheet.get_size())) == A4_POINTS
        text = sheet.get_textpage()
        printed += " " + text.get_text_range()
        for place in range(text.count_rects()):
            left, bottom, right, top = text.get_rect(place)
            assert left >= MARGIN_POINTS - 1, text.get_text_bounded(left, bottom, right, top)
            assert right <= A4_POINTS[0] - MARGIN_POINTS + 1, text.get_text_bounded(left, bottom, right, top)
            assert bottom >= MARGIN_POINTS - 1
            assert top <= A4_POINTS[1] - MARGIN_POINTS + 1
    printed = re.sub(r"\s|\ufffe|\u00ad|-", "", printed)
    rows = shown.ask(
        "() => [...document.querySelectorAll('main table tr')].filter(e => !e.closest('details'))"
        ".map(e => [...e.cells].map(c => c.textContent))"
    )
    assert len(rows) > 20
    for row in rows:
        for cell in row:
            assert re.sub(r"\s|-", "", cell) in printed, cell
    shown.page.emulate_media(media="print")
    kept = shown.ask("() => [...document.querySelectorAll('main tr')].map(e => getComputedStyle(e).breakInside)")
    assert set(kept) == {"avoid"}
    paper = shown.ask("() => getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)", "paper is white, whatever the screen is"
