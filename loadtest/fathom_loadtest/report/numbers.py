"""How reports write numbers: three significant digits, so that tables can be read."""


def short(value: float | None) -> str:
    """Write a figure with three significant digits, whole numbers from 100 on, and a dash where there is none."""
    if value is None:
        return "–"
    size, sign = abs(value), "−" if value < 0 else ""
    if size >= 99.95:
        return f"{sign}{size:,.0f}"
    if size >= 9.995:
        return f"{sign}{size:.1f}"
    if size >= 1:
        return f"{sign}{size:.2f}"
    return f"{sign}{size:.3g}"


def percent(share: float | None) -> str:
    """Write a share as per cent; a share above zero never looks like zero."""
    if share is None:
        return "–"
    return "0 %" if share == 0 else f"{'−' if share < 0 else ''}{abs(share) * 100:.3g} %"


def signed_percent(share: float | None) -> str:
    """Write a relative difference as per cent with its sign, a dash where there is none."""
    return "–" if share is None else f"{share * 100:+.3g} %".replace("-", "−")
