"""The two models of a cascade: the one that decides, and its tokenizer, which is the small model's."""

import shutil
from pathlib import Path
from typing import Final

from fathom_client import protocol
from fathom_export.cascade.calibration import Calibration
from fathom_export.errors import SpecError
from fathom_export.repository.model_config import VERSION, add_cpu_instances, add_tool_calls, new_config, write_config
from fathom_export.repository.tokenizer_files import GENERATE_ADAPTOR, write_tokenizer_model
from fathom_export.spec import CascadeSpec, model_names
from fathom_server.cascade.settings import HOOK_FILE, CascadeSettings, RouterSettings
from fathom_server.errors import SettingsError
from fathom_server.text.tokenizer import TextTokenizer

CASCADE_BACKEND: Final = "cascade"


def write_cascade_models(spec: CascadeSpec, source: Path, staging: Path) -> None:
    """Write a cascade into the staging folder; ``source`` is the folder of the tokenizer.

    Raises SpecError where there is no threshold, or no hook, and TextError where the tokenizer cannot be used.
    """
    cascade, tokenizer = model_names(spec)
    settings = cascade_settings(spec)
    version = staging / cascade / VERSION
    version.mkdir(parents=True)
    settings.save(version)
    if settings.signal == "hook":
        try:
            shutil.copyfile(spec.cascade.hook, version / HOOK_FILE)
        except OSError as error:
            raise SpecError(f"cascade.hook {spec.cascade.hook} cannot be read ({error.strerror})") from error

    config = new_config(cascade, CASCADE_BACKEND, protocol.GENERATE_INPUTS, protocol.CASCADE_OUTPUTS)
    config.model_transaction_policy.decoupled = True
    add_cpu_instances(config)
    add_tool_calls(config, TextTokenizer.load(source).tool_template)
    write_config(config, staging / cascade)

    config = new_config(tokenizer, "python", protocol.TOKENIZE_INPUTS, protocol.TOKENIZE_OUTPUTS)
    add_cpu_instances(config, spec.serving.tokenizer_instances)
    write_config(config, staging / tokenizer)
    write_tokenizer_model(source, staging / tokenizer / VERSION, GENERATE_ADAPTOR)


def cascade_settings(spec: CascadeSpec) -> CascadeSettings:
    """What the cascade is told, by its spec and its calibration; raises SpecError where they leave something open."""
    options, router = spec.cascade, spec.router
    calibration = Calibration.load(Path(options.calibration))
    calibrate = f"run fathom-export calibrate {spec.name}"
    signal, threshold, learned = options.signal, options.threshold, None
    if threshold is None or signal is None:
        if calibration is None:
            raise SpecError(
                f"{spec.name} has no threshold: {calibrate}, which measures one on a held-out set and writes it to "
                f"{options.calibration}, or give cascade.signal and cascade.threshold"
            )
        if signal is not None and signal != calibration.signal:
            raise SpecError(
                f"cascade.signal is {signal!r}, but {options.calibration} has a threshold of {calibration.signal!r}; "
                f"{calibrate}, or leave the signal out"
            )
        signal, threshold, learned = calibration.signal, calibration.threshold, calibration.learned
    if router.prompt_classifier and (calibration is None or calibration.prompt_threshold is None):
        raise SpecError(f"router.prompt_classifier is true, but nothing was trained; {calibrate}")
    try:
        return CascadeSettings(
            small=options.small,
            large=options.large,
            threshold=threshold,
            signal=signal,
            large_url=options.large_url,
            decide_after_tokens=options.decide_after_tokens,
            samples=options.samples,
            sample_temperature=options.sample_temperature,
            verifier=options.verifier,
            encoder=options.encoder,
            learned=learned,
            router=RouterSettings(
                router.max_prompt_characters,
                router.large_tasks,
                router.large_patterns,
                calibration.prompt_threshold if router.prompt_classifier and calibration is not None else None,
                calibration.classifier if router.prompt_classifier and calibration is not None else None,
            ),
            budget=options.budget,
            budget_burst=options.budget_burst,
            max_requests=spec.limits.max_requests,
            timeout_s=spec.limits.timeout_s,
        )
    except SettingsError as error:
        raise SpecError(f"{spec.name}: {error}") from error
