"""What ``benchmarks.engine`` measured, as Markdown."""

from typing import Any

Figures = dict[str, Any]


def table(result: dict[str, Any]) -> str:
    """The parts that were measured, a line each."""
    figures: Figures = result["figures"]
    lines = [
        f"{result['date'][:10]}, commit {result['commit']}; {result['machine']['processor']}, "
        f"{result['machine']['cores']} cores; profile `{result['profile']}`. Medians.",
        "",
        "| | |",
        "|---|---|",
    ]
    if "leaving" in figures:
        freed = figures["leaving"]["freed_ms"]
        lines.append(
            f"| a caller cancels: its slot and blocks are free after | {freed['median']:.0f} ms ({freed['min']:.0f} to "
            f"{freed['max']:.0f}) |"
        )
    if "prefix" in figures:
        prefix = figures["prefix"]
        ttfts = ", ".join(
            f"{shared}: {each['median']:.0f}" for shared, each in prefix["ttft_ms_by_shared_tokens"].items()
        )
        lines.append(f"| TTFT in ms of {prefix['prompt_tokens']} tokens, by how many were seen before | {ttfts} |")
    if "share" in figures:
        share = figures["share"]
        lines.append(
            f"| Triton, adaptor, sending: share of the server's processor time, 16 requests decoding | "
            f"{share['triton_share']:.1%} |"
        )
        lines.append(
            f"| a step of 16 by the clock, client on the same cores / engine alone | "
            f"{share['served_step_ms']['median']:.1f} / {share['engine_step_ms']['median']:.1f} ms |"
        )
    if "queue" in figures:
        by_waiting = figures["queue"]["by_waiting"]
        rates = ", ".join(f"{waiting}: {each['tokens_per_s']:.0f}" for waiting, each in by_waiting.items())
        most = max(by_waiting, key=int)
        lines.append(f"| answers' tokens/s of 16 + 16 tokens, by how many wait | {rates} |")
        lines.append(f"| memory that {most} waiting requests add | {by_waiting[most]['rss_grown_mib']:.0f} MiB |")
    if "tokenizer" in figures:
        tokenizer = figures["tokenizer"]
        lines.append(
            f"| {tokenizer['tokens']} tokens from text, in the engine / by the tokenizer model | "
            f"{tokenizer['encode_ms']['median']:.1f} / {tokenizer['stage_ms']['median']:.1f} ms |"
        )
    return "\n".join(lines)
