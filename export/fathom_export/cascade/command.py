"""``fathom-export calibrate``: when a cascade hands over, measured on a held-out set."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from fathom_export.errors import CalibrationError, SpecError

if TYPE_CHECKING:
    from fathom_export.cascade.calibrate import Finding
    from fathom_export.cascade.curve import Target
    from fathom_export.quality.held_out import HeldOutRow
    from fathom_export.spec import Bundle, CascadeSpec
    from fathom_server.cascade.settings import SignalName

LEAST_QUESTIONS: Final = 10


def main(argv: Sequence[str]) -> int:
    """Measure, choose, write the calibration and export the cascade with it; returns the exit status."""
    arguments = _parser().parse_args(argv)
    from fathom_export.export_model import export_model
    from fathom_export.progress import describe, open_display
    from fathom_export.spec import read_bundle

    target = _target(arguments)
    bundle = read_bundle(arguments.bundle)
    spec = _cascade(bundle, arguments.name)
    rows = _rows(bundle, spec, arguments.held_out)
    finding = _survey(bundle, spec, rows, target, arguments)
    folder = Path(spec.cascade.calibration)
    from fathom_export.cascade.page import save_page, table

    folder.mkdir(parents=True, exist_ok=True)
    save_page(finding, folder, spec.name)
    finding.calibration.save(folder)
    sys.stdout.write(f"{table(finding)}\n")
    choice = finding.calibration
    sys.stdout.write(
        f"{spec.name}: {choice.signal}, threshold {choice.threshold:.6g}, for {target.describe()}; see {folder}\n"
    )
    if not arguments.no_export:
        with open_display() as display:
            outcome = export_model(spec, bundle.folder, bundle.repository, display)
            display.end(outcome)
        sys.stdout.write(f"{describe(outcome)}\n")
    return 0


def _survey(
    bundle: "Bundle", spec: "CascadeSpec", rows: "list[HeldOutRow]", target: "Target", arguments: argparse.Namespace
) -> "Finding":
    """Ask both models, served as callers meet them; raises CalibrationError where one cannot answer."""
    from fathom_client import Client, FathomError
    from fathom_export.cascade.calibrate import find
    from fathom_export.cascade.server import served
    from fathom_export.cascade.survey import Surveyor
    from fathom_export.export_model import export_model
    from fathom_export.progress import open_display
    from fathom_server.cascade.hook import load_hook
    from fathom_server.errors import SettingsError

    options = spec.cascade
    try:
        hook = load_hook(Path(options.hook)) if options.hook else None
    except SettingsError as error:
        raise SpecError(str(error)) from error
    with ExitStack() as stack, open_display() as display:
        url = arguments.url
        if url is None:
            parts = {options.small, options.large, options.encoder, options.verifier}
            for part in bundle.models:
                if part.name in parts:
                    display.end(export_model(part, bundle.folder, bundle.repository, display))
            display.begin(spec.name, f"starting a server over {bundle.repository}")
            url = stack.enter_context(served(bundle.repository))
        client = stack.enter_context(Client(url))
        large_client = stack.enter_context(Client(options.large_url)) if options.large_url else client
        display.begin(spec.name, f"asking {options.small} and {options.large} {len(rows)} questions")
        surveyor = Surveyor(options, _signals(spec), arguments.max_tokens, client, large_client, hook)
        try:
            observations = surveyor.observe_all(rows, display.advance)
        except FathomError as error:
            raise CalibrationError(f"{spec.name} cannot be calibrated: {error}") from error
    return find(observations, spec, target, arguments.small_cost)


def _signals(spec: "CascadeSpec") -> "frozenset[SignalName]":
    """What to observe: the spec's own signal, or all that it has the means for."""
    from fathom_server.cascade.settings import TOKEN_SIGNALS, SignalName

    options = spec.cascade
    if options.signal is not None:
        return frozenset({options.signal})
    means = {"verifier": bool(options.verifier), "hook": bool(options.hook), "learned": True, "agreement": True}
    return frozenset(
        signal for signal in get_args(SignalName) if signal in TOKEN_SIGNALS or (means[signal] and _fits(spec))
    )


def _fits(spec: "CascadeSpec") -> bool:
    """Whether a signal of whole answers may be chosen: not where a beginning is to decide."""
    return not spec.cascade.decide_after_tokens


def _cascade(bundle: "Bundle", name: str) -> "CascadeSpec":
    from fathom_export.spec import CascadeSpec

    cascades = [spec for spec in bundle.models if isinstance(spec, CascadeSpec)]
    for spec in cascades:
        if spec.name == name:
            if spec.cascade.threshold is not None:
                raise SpecError(
                    f"{name} has cascade.threshold = {spec.cascade.threshold} in its bundle, which would stand above "
                    "whatever is measured; leave it out"
                )
            return spec
    names = ", ".join(spec.name for spec in cascades)
    hint = f"cascades: {names}" if names else 'describe one with engine = "cascade"'
    raise SpecError(f"the bundle has no cascade {name!r}; {hint}")


def _rows(bundle: "Bundle", spec: "CascadeSpec", given: Path | None) -> "list[HeldOutRow]":
    """The held-out set: the one that is named, or the one of the small model's checkpoint."""
    from fathom_export.quality.held_out import HELD_OUT_FILE, find_held_out, read_held_out
    from fathom_export.sources import resolve_source

    path = given
    if path is None:
        path = find_held_out(resolve_source(spec.source, bundle.folder, weights=False).folder)
    if path is None:
        raise SpecError(
            f"{spec.name} cannot be calibrated without questions whose answers are known: neither {spec.source} nor "
            f"the folder above it has a {HELD_OUT_FILE}; name one with --held-out"
        )
    rows = read_held_out(path)
    if len(rows) < LEAST_QUESTIONS:
        raise SpecError(f"{path} has {len(rows)} questions; a threshold needs at least {LEAST_QUESTIONS}")
    return rows


def _target(arguments: argparse.Namespace) -> "Target":
    from fathom_export.cascade.curve import Target

    for flag, value in (("--small-cost", arguments.small_cost), ("--max-loss-points", arguments.max_loss_points)):
        if not 0 <= value <= 100:
            raise SpecError(f"{flag} is {value:g}; it must be between 0 and 100")
    if arguments.max_cost is not None and not 0 < arguments.max_cost <= 2:
        raise SpecError(f"--max-cost is {arguments.max_cost:g}; it must be a share of the large model's cost, above 0")
    if arguments.max_tokens < 1:
        raise SpecError(f"--max-tokens is {arguments.max_tokens}; it must be at least 1")
    return Target(arguments.max_loss_points, arguments.max_cost)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fathom-export calibrate",
        description="Ask both models of a cascade a held-out set, sweep the thresholds of every signal, draw quality "
        "against cost, and set the signal and threshold that meet a target.",
        epilog="Examples: fathom-export calibrate chat | fathom-export calibrate chat --max-loss-points 0.5 | "
        "fathom-export calibrate chat --max-cost 0.4 --held-out questions.jsonl",
    )
    parser.add_argument("name", help="the cascade, by its name in the bundle")
    parser.add_argument("--bundle", type=Path, default=Path("bundle.toml"), help="the bundle; default: bundle.toml")
    parser.add_argument(
        "--held-out",
        type=Path,
        help="questions with answers (JSON lines as in docs/quality.md); default: held_out.jsonl in or above the small "
        "model's checkpoint",
    )
    target = parser.add_argument_group("target").add_mutually_exclusive_group()
    target.add_argument(
        "--max-loss-points",
        type=float,
        default=1.0,
        metavar="N",
        help="be as cheap as possible, at most so many points of accuracy below the large model; default: 1",
    )
    target.add_argument(
        "--max-cost",
        type=float,
        metavar="SHARE",
        help="be as good as possible, at most at this share of the large model's cost",
    )
    parser.add_argument(
        "--small-cost",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="what a token of the small model costs, in tokens of the large one; default: 0.2",
    )
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="tokens of an answer; default: 256")
    parser.add_argument("--url", help="gRPC address of a running server that has the models; by default one is started")
    parser.add_argument("--no-export", action="store_true", help="write the calibration, but leave the repository")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
