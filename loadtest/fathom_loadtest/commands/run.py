"""``fathom-load run``: run a scenario and write its report."""

import argparse
from datetime import datetime
from pathlib import Path
from typing import Final

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario import SLO_NAMES, TASKS, Length, Scenario, Slo

HELP: Final = "load test a model on Triton over gRPC: exact figures, a report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "Exit status: 0 measured; 1 server away or lost, all requests failed, or too many; 2 wrong arguments; "
        "130 interrupted (the report is written nevertheless)."
    )
    target = parser.add_argument_group("target")
    target.add_argument("--url", default="localhost:8001", help="HOST:PORT of the gRPC endpoint (default %(default)s)")
    target.add_argument("--model", required=True, help="name of the model")
    target.add_argument("--task", default="generate", choices=TASKS, help="what is asked of it (default %(default)s)")
    load = parser.add_argument_group("load")
    load.add_argument("--users", default="1", help="users at once; a list makes a stage of each: 1,4,16 (default 1)")
    load.add_argument("--duration-s", type=float, help="seconds in which requests start, a stage (default 30)")
    load.add_argument("--requests", type=int, help="requests a stage, in place of --duration-s")
    load.add_argument("--warmup-requests", type=int, default=1, help="uncounted requests a user (default %(default)s)")
    load.add_argument("--timeout-s", type=float, default=60.0, help="limit of one request (default %(default)g)")
    content = parser.add_argument_group("content")
    content.add_argument("--prompts", type=Path, help='JSONL file of {"prompt": …} or {"messages": […]}')
    content.add_argument("--input-tokens", type=int, help="synthetic prompts of so many tokens (mean)")
    content.add_argument("--input-tokens-stddev", type=float, default=0.0, help="their standard deviation (default 0)")
    content.add_argument("--output-tokens", type=int, help="max_tokens of each request (mean)")
    content.add_argument("--output-tokens-stddev", type=float, default=0.0, help="its standard deviation (default 0)")
    content.add_argument("--ignore-eos", action="store_true", help="ask the model to go on to max_tokens")
    content.add_argument("--temperature", type=float, help="sampling temperature (the server's default: greedy)")
    content.add_argument("--seed", type=int, default=0, help="of prompts and lengths (default %(default)s)")
    judgement = parser.add_argument_group("report")
    judgement.add_argument("--slo", help=f"objectives for goodput, NAME=MS,… of {', '.join(SLO_NAMES)}")
    judgement.add_argument(
        "--fail-on-error-rate", type=float, help="exit 1 above this share of failed requests, 0 to 1"
    )
    judgement.add_argument("--output", type=Path, help="folder (default reports/TIME-MODEL)")


def main(options: argparse.Namespace, command: str) -> int:
    """Run the scenario that the flags describe; gives the exit status."""
    scenario = _scenario(options)
    rate = options.fail_on_error_rate
    if rate is not None and not 0 <= rate <= 1:
        raise ScenarioError(f"--fail-on-error-rate {rate} is out of range; it is a share between 0 and 1")
    prompt_set = None
    if scenario.prompt_file is not None:
        from fathom_loadtest.prompts import load_prompt_set

        prompt_set = load_prompt_set(scenario)
    output = options.output or _default_output(scenario.model)

    from fathom_loadtest.process import make_cooperative

    make_cooperative()
    from fathom_loadtest.session import run_session

    return run_session(scenario, prompt_set, output, command, rate)


def _scenario(options: argparse.Namespace) -> Scenario:
    try:
        users = tuple(int(number) for number in options.users.split(","))
    except ValueError:
        raise ScenarioError(f"--users {options.users!r} is no number or list of numbers such as 1,4,16") from None
    duration_s = options.duration_s
    if duration_s is None and options.requests is None:
        duration_s = 30.0
    return Scenario(
        url=options.url,
        model=options.model,
        task=options.task,
        users=users,
        duration_s=duration_s,
        requests=options.requests,
        warmup_requests=options.warmup_requests,
        timeout_s=options.timeout_s,
        prompt_file=options.prompts,
        input_tokens=_length("input", options.input_tokens, options.input_tokens_stddev),
        output_tokens=_length("output", options.output_tokens, options.output_tokens_stddev),
        temperature=options.temperature,
        ignore_eos=options.ignore_eos,
        seed=options.seed,
        slos=Slo.parse(options.slo) if options.slo is not None else (),
    )


def _length(name: str, mean: int | None, stddev: float) -> Length | None:
    if mean is None:
        if stddev:
            raise ScenarioError(f"--{name}-tokens-stddev needs --{name}-tokens")
        return None
    return Length(mean, stddev)


def _default_output(model: str) -> Path:
    return Path("reports") / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{model.replace('/', '-')}"
