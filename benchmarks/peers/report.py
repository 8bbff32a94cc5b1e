"""From runs to medians, ratios, a table and a picture; all of it can be drawn again from the JSON alone."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.page import marks, write_part
from benchmarks.peers.workload import MEASURES

PICTURE: Final = "peers.svg"
PROFILE_OF: Final = {
    "decode_1": "latency",
    "prefill_512": "throughput",
    "throughput_8": "throughput",
    "throughput_16": "throughput",
    "paced_goodput": "throughput",
}
"""Which of our deployments a ratio is about; the table shows the figures of both."""

TITLES: Final = {
    "decode_1": "decode, 1 request\ntokens/s",
    "prefill_512": "prefill of 512\ntokens/s",
    "throughput_8": "8 requests at once\ntokens/s",
    "throughput_16": "16 requests at once\ntokens/s",
    "paced_goodput": "paced: good requests/s",
}
BUSY_CORES: Final = 0.2
"""With more than that used by others, the figures say more about them."""
INK: Final = "#1b2733"
RULE: Final = "#d9dfe5"
OURS: Final = {"latency": "#5aa9e6", "throughput": "#0f6fc6", "adaptive": "#0a437a"}
PEER: Final = "#a9b4bf"

Result = dict[str, Any]


def summarise(result: Result) -> None:
    """Add ``medians``, ``details``, ``ratios``, ``ratios_by_profile`` and ``best_peers`` to a result of ``runs``."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    details: dict[str, dict[str, dict[str, float]]] = {}
    for name in result["contenders"]:
        for measure in MEASURES:
            runs = [run for run in result["runs"] if run["contender"] == name and run["measure"] == measure]
            if not runs:
                continue
            rounds = sorted({run["round"] for run in runs})
            values.setdefault(name, {})[measure] = {
                each: statistics.median(run["value"] for run in runs if run["round"] == each) for each in rounds
            }
            details.setdefault(name, {})[measure] = {
                key: round(statistics.median(run["details"][key] for run in runs), 3) for key in runs[0]["details"]
            }
    result["medians"] = {
        name: {measure: round(statistics.median(rounds.values()), 3) for measure, rounds in measures.items()}
        for name, measures in values.items()
    }
    result["details"] = details
    profiles = {about["profile"]: name for name, about in result["contenders"].items() if about["profile"]}
    result["ratios"], result["best_peers"], result["ratios_by_profile"] = {}, {}, {profile: {} for profile in profiles}
    for measure in MEASURES:
        for profile, name in profiles.items():
            best = _hardest_peer(values, result["contenders"], measure, name)
            if best is None:
                continue
            peer, ratio = best
            result["ratios_by_profile"][profile][measure] = ratio
            if profile == PROFILE_OF[measure]:
                result["ratios"][measure], result["best_peers"][measure] = ratio, peer


def _hardest_peer(
    values: Mapping[str, Mapping[str, Mapping[int, float]]],
    contenders: Mapping[str, Any],
    measure: str,
    ours: str,
) -> tuple[str, float] | None:
    """The peer that leaves us the lowest ratio: the median over rounds of ours / its, both of the same round."""
    own = values.get(ours, {}).get(measure, {})
    found: tuple[str, float] | None = None
    for name, measures in values.items():
        theirs = measures.get(measure, {})
        rounds = [each for each in own if theirs.get(each, 0) > 0]
        if contenders[name]["profile"] or not rounds:
            continue
        ratio = round(statistics.median(own[each] / theirs[each] for each in rounds), 3)
        if found is None or ratio < found[1]:
            found = name, ratio
    return found


def table(result: Result) -> str:
    """The result in Markdown."""
    lines = [
        _head(result),
        "",
        "| | decode 1, tokens/s | TTFT of 512, ms | prefill of 512, tokens/s | @8, tokens/s | @16, tokens/s "
        "| paced, good requests/s | RSS @16, MiB (peak) | ready, s |",
        "|---|" + "---:|" * 8,
    ]
    for name, about in result["contenders"].items():
        if name not in result["medians"]:
            lines.append(f"| {name} | not measured: {about.get('missing', 'left out')} |" + " |" * 7)
            continue
        medians, details = result["medians"][name], result["details"][name]
        memory = about.get("memory", {})
        cells = [
            _number(medians.get("decode_1"), 1),
            _number(details.get("prefill_512", {}).get("ttft_ms"), 0),
            _number(medians.get("prefill_512"), 0),
            _number(medians.get("throughput_8"), 0),
            _number(medians.get("throughput_16"), 0),
            _number(medians.get("paced_goodput"), 2),
            f"{memory['rss_mib']:.0f} ({memory['peak_rss_mib']:.0f})" if memory else "",
            _number(statistics.median(about["load_s"]) if about.get("load_s") else None, 1),
        ]
        shown = f"**{name}** ({about['precision']})" if about["profile"] else name
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    lines += ["", *_ratio_lines(result)]
    busy = statistics.median(run["strangers_cores"] for run in result["runs"])
    if busy > BUSY_CORES:
        lines += [
            "",
            f"**Not to be relied on**: other work kept {busy:.2f} cores busy, and who has more processes or spins less "
            "gets more of what is left.",
        ]
    return "\n".join(lines)


def save(result: Result, folder: Path) -> Path:
    """Write a result's JSON into a folder, in place of one of the same day; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"peers-{result['date'][:10]}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def redraw(result: Result, path: Path, page: Path) -> None:
    """Replace what stands between the page's markers, and the picture beside it."""
    if not page.is_file():
        page.write_text("\n".join(("# Performance", "", "## Against peers", "", *marks("peers"), "")), encoding="utf-8")
    picture = "![Speed of Fathom and its peers](peers.svg)"
    body = f"{table(result)}\n\nAll runs: `benchmarks/results/{path.name}`.\n\n{picture}"
    write_part(page, "peers", body)
    draw(result, page.parent / PICTURE)


def draw(result: Result, path: Path) -> None:
    """One panel a measure, one bar a contender: the median, and a dot for every round."""
    import matplotlib

    style: dict[Any, Any] = {"svg.hashsalt": "fathom", "svg.fonttype": "none", "font.size": 9}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}
    names = [name for name in result["contenders"] if name in result["medians"]][::-1]
    measures = [measure for measure in MEASURES if any(measure in result["medians"][name] for name in names)]
    with matplotlib.rc_context(style):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.5 * len(measures) + 1.6, 0.34 * len(names) + 1.0), layout="constrained")
        panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for panel, measure in zip(panels, measures, strict=True):
            _draw_panel(panel, result, names, measure)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_panel(panel: Any, result: Result, names: Sequence[str], measure: str) -> None:
    for row, name in enumerate(names):
        value = result["medians"][name].get(measure)
        if value is None:
            continue
        colour = OURS.get(result["contenders"][name]["profile"], PEER)
        panel.barh(row, value, height=0.66, color=colour)
        dots = [run["value"] for run in result["runs"] if run["contender"] == name and run["measure"] == measure]
        panel.scatter(dots, [row] * len(dots), s=7, color=INK, alpha=0.55, linewidths=0, zorder=3)
        right = max([value, *dots])
        panel.annotate(
            f"{value:.2f}" if measure == "paced_goodput" else f"{value:.0f}",
            (right, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontweight="bold" if result["contenders"][name]["profile"] else "normal",
        )
    panel.set_title(TITLES[measure], loc="left", fontsize=9, color=INK)
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(length=0, colors=INK)
    panel.xaxis.set_major_locator(_few_ticks())
    panel.grid(axis="x", color=RULE, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.margins(x=0.22)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3)


def _head(result: Result) -> str:
    machine, model, work = result["machine"], result["model"], result["workload"]
    versions: dict[str, str] = {}
    for about in result["contenders"].values():
        versions |= about["versions"]
    strangers = [run["strangers_cores"] for run in result["runs"]]
    rounds = len({run["round"] for run in result["runs"]})
    return (
        f"{result['date'][:10]}, commit {result['commit']}; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". Random weights in the shape of a Llama of {model['layers']} layers, hidden size {model['hidden']}, "
        f"{model['heads']}/{model['kv_heads']} heads, vocabulary {model['vocabulary']}; two threads each. "
        f"{rounds} rounds, all processes alive and taking turns; other work kept "
        f"{statistics.median(strangers):.2f} cores busy in the median run. Requests have {work['prompt_tokens']} + "
        f"{work['answer_tokens']} tokens; @N is N of them at once, N × {work['answer_tokens']} / wall time, prefill "
        f"included. Paced: {work['paced_requests']} requests of mixed lengths, {work['paced_requests_per_s']:g} a "
        f"second (Poisson); good ones have TTFT ≤ {work['ttft_slo_ms']:g} ms, ITL ≤ "
        f"{work['itl_slo_ms']:g} ms. Ours are measured at a client, through gRPC and Triton; llama.cpp's at a client "
        "of its HTTP server; the others' inside their process. RSS is that of all processes of a server, without its "
        "client."
    )


def _ratio_lines(result: Result) -> list[str]:
    if not result["ratios"]:
        return []
    lines = [
        "Ours / the best peer, median over rounds. A deployment chooses one profile: the ratio that counts is that of "
        "`latency` for one request's decode, of `throughput` for all else.",
        "",
        "| | counts | " + " | ".join(f"`{profile}`" for profile in result["ratios_by_profile"]) + " | best peer |",
        "|---|---:|" + "---:|" * len(result["ratios_by_profile"]) + "---|",
    ]
    for measure, ratio in result["ratios"].items():
        others = [_number(ratios.get(measure), 2) for ratios in result["ratios_by_profile"].values()]
        lines.append(f"| `{measure}` | **{ratio:.2f}** | {' | '.join(others)} | {result['best_peers'][measure]} |")
    return lines


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
