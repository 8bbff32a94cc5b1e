"""A page's parts that benchmarks write: what stands between two marks."""

from pathlib import Path


def marks(name: str) -> tuple[str, str]:
    """The marks around what the benchmark ``name`` writes."""
    return f"<!-- bench-{name}: begin -->", f"<!-- bench-{name}: end -->"


def write_part(page: Path, name: str, body: str) -> None:
    """Replace what stands between a benchmark's marks in a page; raises ValueError where the page lacks them."""
    begin, end = marks(name)
    text = page.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{page} must have {begin} and {end} once each, around what the benchmark writes")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{body.strip()}\n{end}{after}", encoding="utf-8")
