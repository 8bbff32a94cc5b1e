"""``fathom-load run``: run a scenario and write its report."""

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fathom_loadtest.commands.worker import read_address
from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario import SLO_NAMES, TASKS, Scenario, Slo, parse_setting, read_scenario
from fathom_loadtest.scenario.loads import DEFAULT_DURATION_S
from fathom_loadtest.workers.plan import ANY_HOST, DEFAULT_PORT, LOOPBACK, WorkerPlan
from fathom_loadtest.workers.secret import VARIABLE, WorkerSecret

if TYPE_CHECKING:
    from fathom_loadtest.gate.file import Objectives

HELP: Final = "load test models on Triton over gRPC: exact figures, a report"

_FLAGS: Final = {
    "url": "target.url",
    "timeout_s": "target.timeout_s",
    "api_key_file": "target.api_key_file",
    "tls_ca": "target.tls.ca",
    "repository": "target.repository",
    "metrics_url": "target.metrics_url",
    "users": "load.users",
    "ramp_s": "load.ramp_s",
    "rate": "load.rates",
    "ramp_from": "load.ramp_from",
    "arrivals": "load.arrivals.process",
    "burstiness": "load.arrivals.burstiness",
    "burst_size": "load.arrivals.burst_size",
    "max_in_flight": "load.max_in_flight",
    "sweep": "load.over",
    "trace": "load.file",
    "speedup": "load.speedup",
    "duration_s": "load.duration_s",
    "requests": "load.requests",
    "warmup_requests": "warmup_requests",
    "warmup_s": "warmup_s",
    "model": "tasks[0].model",
    "task": "tasks[0].task",
    "prompts": "tasks[0].prompts",
    "input_tokens": "tasks[0].input_tokens",
    "output_tokens": "tasks[0].output_tokens",
    "temperature": "tasks[0].sampling.temperature",
    "ignore_eos": "tasks[0].sampling.ignore_eos",
    "seed": "seed",
    "slo": "slos",
}
"""The flags that stand for a key of the scenario."""
_NAMES: Final = {
    **{path: "--" + flag.replace("_", "-") for flag, path in _FLAGS.items()},
    "load": "the load",
    "tasks[0]": "the task",
    "slos.ttft_ms": "SLO ttft_ms",
    "slos.itl_ms": "SLO itl_ms",
}
WEB_HOST: Final = "127.0.0.1"
WEB_PORT: Final = 8089
_SHAPES: Final = {"users": "closed", "rate": "open", "sweep": "sweep", "trace": "trace"}
"""The flags that decide the load's shape."""
_ONE_TASK: Final = tuple(flag for flag, path in _FLAGS.items() if path.startswith("tasks[0]."))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.epilog = (
        "Exit status: 0 measured; 1 server away or lost, all requests failed, or too many; 2 wrong arguments; "
        "3 an objective of the gate broken; 130 interrupted (the report is written nevertheless)."
    )
    parser.add_argument(
        "scenario", nargs="?", type=Path, help="TOML file, whose keys docs/loadtest.md lists; flags override it"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the scenario: load.rates=[1,2,4]"
    )
    target = parser.add_argument_group("target")
    target.add_argument("--url", help="HOST:PORT of the gRPC endpoint (default localhost:8001)")
    target.add_argument("--timeout-s", type=float, help="limit of one request (default 60)")
    target.add_argument("--api-key-file", type=Path, help="file that holds the API key")
    target.add_argument("--tls-ca", type=Path, help="encrypt, and trust these authorities (PEM)")
    target.add_argument("--metrics-url", help="the server's metrics (default: port 8002 of its host), or off")
    target.add_argument("--repository", type=Path, help="its model repository, if here: passports go into the report")
    load = parser.add_argument_group("load, one shape of it")
    load.add_argument("--users", type=_whole_numbers, help="closed loop: users at once; a stage of each of 1,4,16")
    load.add_argument("--ramp-s", type=float, help="seconds over which a stage's users begin")
    load.add_argument("--rate", type=_numbers, help="open loop: requests/s; a stage of each of 2,4,8")
    load.add_argument("--ramp-from", type=float, help="rate at a stage's beginning, from which it grows to --rate")
    load.add_argument("--sweep", choices=("users", "rate"), help="raise it until the --slo breaks, then find the knee")
    load.add_argument("--trace", type=Path, help="replay times and lengths: Mooncake's JSONL or Azure's CSV")
    load.add_argument("--speedup", type=float, help="how many times faster than recorded (default 1)")
    load.add_argument("--arrivals", choices=("poisson", "constant", "gamma"), help="of an open loop (default poisson)")
    load.add_argument("--burstiness", type=float, help="shape of gamma arrivals; below 1 bursts")
    load.add_argument("--burst-size", type=int, help="requests that arrive together (default 1)")
    load.add_argument("--max-in-flight", type=int, help="most requests under way of an open loop (default 512)")
    load.add_argument("--duration-s", type=float, help="seconds in which requests start, a stage (default 30)")
    load.add_argument("--requests", type=int, help="requests a stage, in place of --duration-s")
    load.add_argument("--warmup-requests", type=int, help="uncounted requests a user before each stage (default 1)")
    load.add_argument("--warmup-s", type=float, help="uncounted seconds of a stage's load before it, in place of them")
    load.add_argument("--workers", type=int, metavar="N", help="share the load among N processes of this host")
    load.add_argument("--expect-workers", type=int, metavar="N", help="... or among N `fathom-load worker` elsewhere")
    load.add_argument(
        "--master-bind",
        metavar="HOST:PORT",
        help=f"where these are awaited (default: port {DEFAULT_PORT} of all addresses, of {LOOPBACK} without a secret)",
    )
    load.add_argument(
        "--secret-file", type=Path, help=f"file with the secret that they and the run share (default: ${VARIABLE})"
    )
    content = parser.add_argument_group("content, of a scenario with one task")
    content.add_argument("--model", help="name of the model")
    content.add_argument("--task", choices=TASKS, help="what is asked of it (default generate)")
    content.add_argument("--prompts", type=Path, help='JSONL of {"prompt": …}, {"messages": […]}; ShareGPT\'s JSON')
    content.add_argument("--input-tokens", type=int, help="synthetic prompts of so many tokens (mean)")
    content.add_argument("--input-tokens-stddev", type=float, default=0.0, help="their standard deviation (default 0)")
    content.add_argument("--output-tokens", type=int, help="max_tokens of each request (mean)")
    content.add_argument("--output-tokens-stddev", type=float, default=0.0, help="its standard deviation (default 0)")
    content.add_argument("--ignore-eos", action="store_true", default=None, help="ask the model to go on to max_tokens")
    content.add_argument("--temperature", type=float, help="sampling temperature (the server's default: greedy)")
    content.add_argument("--seed", type=int, help="of order, content, lengths and times (default 0)")
    load.add_argument(
        "--web-ui", nargs="?", type=_web_address, const=(WEB_HOST, WEB_PORT), metavar="[HOST:]PORT",
        help=f"start and stop in Locust's web UI ({WEB_HOST}:{WEB_PORT})",
    )  # fmt: skip
    judgement = parser.add_argument_group("report")
    judgement.add_argument("--slo", help=f"objectives for goodput and sweeps, NAME=MS,… of {', '.join(SLO_NAMES)}")
    judgement.add_argument(
        "--fail-on-error-rate", type=float, help="exit 1 above this share of failed requests, 0 to 1"
    )
    judgement.add_argument("--gate", action="store_true", help="exit 3 where a stage breaks the SLOs")
    judgement.add_argument(
        "--gate-slo", action="append", default=[], metavar="OBJECTIVE,…", help="or these, such as ttft_ms.p95<=200"
    )
    judgement.add_argument("--gate-file", type=Path, help="or those of a TOML file; see fathom-load gate")
    judgement.add_argument("--output", type=Path, help="folder (default reports/TIME-MODEL)")


def main(options: argparse.Namespace, command: str) -> int:
    """Run the scenario that file and flags describe; gives the exit status."""
    scenario = scenario_of(options)
    rate = options.fail_on_error_rate
    if rate is not None and not 0 <= rate <= 1:
        raise ScenarioError(f"--fail-on-error-rate {rate} is out of range; it is a share between 0 and 1")
    from fathom_loadtest.content.files import ScenarioFiles

    workers, gate = _worker_plan(options), _gate(options, scenario)
    files = ScenarioFiles.read(scenario)
    output = options.output or _default_output(scenario.model)

    from fathom_loadtest.process import make_cooperative

    make_cooperative()
    from fathom_loadtest.session import run_session

    return run_session(files, output, command, rate, options.web_ui, workers, gate)


def _gate(options: argparse.Namespace, scenario: Scenario) -> "Objectives | None":
    """Give what the run is held against at its end; None without a gate. Raises ScenarioError."""
    from fathom_loadtest.gate.file import Objectives

    objectives = Objectives.gather(options.gate_slo, options.gate_file)
    if not objectives and not options.gate:
        return None
    if not objectives and not scenario.slos:
        raise ScenarioError("--gate has nothing to judge by; give objectives with --slo, --gate-slo or --gate-file")
    return objectives


def _worker_plan(options: argparse.Namespace) -> WorkerPlan | None:
    """Tell which workers share the load; None without any."""
    if options.workers is not None and options.expect_workers is not None:
        raise ScenarioError("--workers and --expect-workers are two kinds of workers; give one of them")
    if options.secret_file is not None and options.expect_workers is None:
        raise ScenarioError("--secret-file needs --expect-workers")
    number = options.workers if options.expect_workers is None else options.expect_workers
    if number is None:
        if options.master_bind is not None:
            raise ScenarioError("--master-bind needs --expect-workers")
        return None
    if number < 1:
        raise ScenarioError(f"{number} workers are out of range; there must be at least 1")
    if options.web_ui is not None:
        raise ScenarioError("--web-ui runs its users in this process; leave the workers out")
    if options.workers is not None:
        return WorkerPlan(number, is_local=True, host=LOOPBACK, port=0, secret=WorkerSecret.random())
    secret = WorkerSecret.given(options.secret_file)
    default = (LOOPBACK if secret is None else ANY_HOST, DEFAULT_PORT)
    host, port = read_address(options.master_bind) if options.master_bind else default
    return WorkerPlan(number, is_local=False, host=host, port=port, secret=secret)


def scenario_of(options: argparse.Namespace) -> Scenario:
    """Build the scenario that file and flags describe; raises ScenarioError."""
    given = {name: value for name in _FLAGS if (value := getattr(options, name)) is not None}
    shapes = [flag for flag in _SHAPES if flag in given]
    if len(shapes) > 1:
        raise ScenarioError(f"--{shapes[0]} and --{shapes[1]} are two shapes of load; give one of them")
    for name in ("input_tokens", "output_tokens"):
        stddev = getattr(options, f"{name}_stddev")
        if stddev and name not in given:
            flag = name.replace("_", "-")
            raise ScenarioError(f"--{flag}-stddev needs --{flag}")
        if stddev:
            given[name] = {"distribution": "normal", "mean": given[name], "stddev": stddev}
    if "slo" in given:
        given["slo"] = {slo.name: slo.limit_ms for slo in Slo.parse(given["slo"])}
    overrides: dict[str, Any] = {"load.shape": _SHAPES[shapes[0]]} if shapes else {}
    overrides |= {_FLAGS[flag]: value for flag, value in given.items()}
    for flag, other in (("duration_s", "requests"), ("requests", "duration_s")):
        if flag in given and other not in given:
            overrides[f"load.{other}"] = None  # the flag takes the place of the file's limit, whichever it is
    settings = dict(parse_setting(setting) for setting in options.set)
    overrides |= settings
    if options.scenario is None and not any(path.startswith("tasks") for path in overrides):
        raise ScenarioError("nothing to run; name a scenario's TOML file, or a model with --model")
    if options.scenario is None:
        overrides = _defaults(overrides) | overrides
    names = {path: name for path, name in _NAMES.items() if path not in settings}
    return read_scenario(options.scenario, overrides, names, single=[_FLAGS[flag] for flag in _ONE_TASK])


def _defaults(overrides: dict[str, Any]) -> dict[str, Any]:
    """What holds where no file says anything."""
    defaults: dict[str, Any] = {} if "load.shape" in overrides else {"load.shape": "closed", "load.users": 1}
    if overrides.get("load.shape") != "trace" and not {"load.duration_s", "load.requests"} & overrides.keys():
        defaults["load.duration_s"] = DEFAULT_DURATION_S
    return defaults


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number or list of numbers such as 1,4,16") from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number or list of numbers such as 0.5,1,2") from None


def _web_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{port!r} is no port; give a number between 1 and 65535")
    return host or WEB_HOST, int(port)


def _default_output(model: str) -> Path:
    name = model.replace("/", "-").replace(" + ", "+")
    return Path("reports") / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{name}"
