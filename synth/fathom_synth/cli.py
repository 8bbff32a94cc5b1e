"""``fathom-synth``: the command line. Nothing heavy is imported before the arguments are known to be right."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fathom_synth import __version__
from fathom_synth.errors import ServerError, SynthError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``fathom-synth``."""
    parser = _Parser(
        prog="fathom-synth",
        description="Training data that a served model writes: asked, filtered, with its provenance.",
        epilog="Exit status: 0 done; 1 the server is away or refuses; 2 a fault of the job or its files; "
        "130 interrupted (the same command goes on where it was).",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, main, text in (
        ("run", _run, "run a job, or go on with one that was stopped"),
        ("check", _check, "check a job, its templates, seeds and licence, and show its first prompts; asks no server"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        command.add_argument("job", type=Path, metavar="JOB.toml", help="the job, whose keys docs/synth.md lists")
        command.add_argument("--url", help="HOST:PORT of the server, in place of the job's")
        command.add_argument("--output", type=Path, metavar="FOLDER", help="where to write, in place of the job's")
        command.set_defaults(main=main)
    commands.choices["check"].add_argument(
        "--show", type=_count, default=1, metavar="N", help="prompts of each kind to show (default: %(default)s)"
    )
    card = commands.add_parser(
        "card",
        help="hold a finished output against its data card, and print the card",
        description="Hold a finished output against its data card, and print the card as Markdown.",
    )
    card.add_argument("folder", type=Path, metavar="FOLDER", help="the output of a job")
    card.add_argument("--json", action="store_true", help="as JSON")
    card.set_defaults(main=_card)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fathom-synth``; gives the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.main(options))
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SynthError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141


def _run(options: argparse.Namespace) -> int:
    from fathom_synth.job_file import read_job
    from fathom_synth.run import run_job

    job = read_job(options.job, options.url, options.output)
    card = run_job(job)
    for stage in card["filters"]:
        print(f"{stage['filter']}: {stage['dropped']:,} of {stage['seen']:,} dropped", file=sys.stderr)
    names = ("rows", "answers", "malformed", "refused")
    print(json.dumps({"file": str(job.output / card["file"]), **{name: card[name] for name in names}}))
    return 0


def _check(options: argparse.Namespace) -> int:
    from fathom_synth.job_file import read_job
    from fathom_synth.prompts import Unusable
    from fathom_synth.run import Plan

    job = read_job(options.job, options.url, options.output)
    plan = Plan.of(job)
    shown: dict[str, int] = {}
    for prompt in plan.source if options.show else ():
        if not isinstance(prompt, Unusable) and shown.get(prompt.name, 0) < options.show:
            shown[prompt.name] = shown.get(prompt.name, 0) + 1
            for message in prompt.messages:
                print(f"{prompt.name}:{prompt.line} {message['role']}: {message['content']}", file=sys.stderr)
    for row in plan.unusable:
        print(f"malformed: {row.file.name}:{row.line}: {row.reason}", file=sys.stderr)
    teacher = plan.teacher
    summary = {
        "prompts": plan.prompts,
        "answers": sum(job.sampling_of(each).samples * plan.prompts[each.name] for each in job.prompts),
        "malformed": len(plan.unusable),
        "teacher": {"model": teacher.model, "source": teacher.source, "revision": teacher.revision},
        "licence": teacher.decision.to_json(),
        "filters": [each.filter for each in job.filters],
    }
    print(json.dumps(summary, ensure_ascii=False))
    return 0


def _card(options: argparse.Namespace) -> int:
    from fathom_synth.card import read_card, render_card

    card = read_card(options.folder)
    print(json.dumps(card, indent=2, ensure_ascii=False) if options.json else render_card(card))
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number; give 0 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
