"""Whether a plan may run where it is: the pure check that export and server share."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_server.engine.plan_passport import (
    PlanOptions,
    PlanPassport,
    PlanProfile,
    PlanRuntime,
    PlanUse,
    ShapeRange,
    fp8_fault,
    hash_file,
    plan_command,
    plan_fault,
)
from fathom_server.errors import SettingsError

H100 = PlanRuntime("10.16.1.11", "13.0", "13.1", (9, 0), "NVIDIA H100 80GB HBM3")
PROFILES = (
    PlanProfile("prefill", {"input_ids": ShapeRange((1, 1), (1, 256), (16, 256))}),
    PlanProfile("decode", {"input_ids": ShapeRange((1, 1), (16, 1), (16, 1))}),
)
PASSPORT = PlanPassport(H100, PlanOptions(), "aa" * 32, "bb" * 32, PROFILES, 1000, "2026-11-21T12:00:00+00:00")
COMMAND = "fathom-export plan chat --repository /models --precision fp16"


def fault(passport: PlanPassport = PASSPORT, **use: object) -> str | None:
    """The check with what differs from the machine that built the plan."""
    return plan_fault(passport, replace(PlanUse(H100), **use), COMMAND)  # type: ignore[arg-type]


def options(**changes: object) -> PlanPassport:
    """The passport of a plan built otherwise."""
    return replace(PASSPORT, options=replace(PASSPORT.options, **changes))  # type: ignore[arg-type]


def here(**changes: object) -> PlanRuntime:
    """Another machine."""
    return replace(H100, **changes)  # type: ignore[arg-type]


def test_a_plan_runs_where_it_was_built() -> None:
    """Nothing is wrong on the same machine with the same files under the limits that the profiles cover."""
    needed = ({"input_ids": (1, 256)}, {"input_ids": (16, 1)})
    use = {"onnx_sha256": "aa" * 32, "weights_sha256": "bb" * 32, "plan_bytes": 1000, "needed_shapes": needed}
    assert fault(**use) is None


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ({"onnx_sha256": "cc" * 32}, "was built from another ONNX file than the one beside it"),
        ({"weights_sha256": "cc" * 32}, "was built from another ONNX file than the one beside it"),
        ({"plan_bytes": 999}, "has 999 bytes, but its passport says 1000"),
        ({"runtime": here(tensorrt="10.16.1.12")}, "TensorRT 10.16.1.11, but this is TensorRT 10.16.1.12"),
        ({"runtime": here(tensorrt="11.4.0.106")}, "TensorRT 10.16.1.11, but this is TensorRT 11.4.0.106"),
        (
            {"runtime": here(gpu="NVIDIA L4", compute_capability=(8, 9))},
            "NVIDIA H100 80GB HBM3 (compute capability 9.0), but this is the NVIDIA L4 (8.9)",
        ),
        ({"runtime": here(gpu="NVIDIA H100 PCIe")}, "but this is the NVIDIA H100 PCIe (9.0)"),
        ({"runtime": here(driver_cuda="12.8")}, "built with CUDA 13.0, but the driver here takes at most CUDA 12.8"),
        ({"needed_shapes": ({"input_ids": (17, 1)},)}, "has no profile for input_ids [17, 1]"),
        ({"needed_shapes": ({"input_ids": (1, 257)},)}, "has no profile for input_ids [1, 257]"),
        ({"needed_shapes": ({"tokens": (1, 1)},)}, "has no profile for tokens [1, 1]"),
    ],
)
def test_a_plan_from_elsewhere_is_refused_in_one_sentence(use: dict[str, object], reason: str) -> None:
    """Each mismatch is one line that says what differs and ends with the command that mends it."""
    message = fault(**use)
    assert message is not None
    assert reason in message
    assert message.startswith("the plan ")
    assert message.endswith(f"; build it again here: {COMMAND}")
    assert "\n" not in message
    assert ". " not in message


@pytest.mark.parametrize(("version", "runs"), [("10.16.2.1", True), ("10.15.9.9", False), ("11.0.0.1", False)])
def test_a_version_compatible_plan_runs_on_later_versions_of_its_major(version: str, runs: bool) -> None:
    """Later minor versions load it; earlier ones and other majors do not."""
    assert (fault(options(version_compatible=True), runtime=here(tensorrt=version)) is None) is runs


@pytest.mark.parametrize(
    ("compatibility", "capability", "runs"),
    [
        ("ampere_plus", (8, 0), True),
        ("ampere_plus", (12, 0), True),
        ("ampere_plus", (7, 5), False),
        ("same_compute_capability", (9, 0), True),
        ("same_compute_capability", (8, 9), False),
        ("none", (9, 0), False),
    ],
)
def test_hardware_compatibility_opens_other_gpus(compatibility: str, capability: tuple[int, int], runs: bool) -> None:
    """Each level admits the GPUs that TensorRT says it does, and no others."""
    other = here(gpu="another GPU", compute_capability=capability)
    assert (fault(options(hardware_compatibility=compatibility), runtime=other) is None) is runs


@given(st.tuples(st.integers(5, 12), st.integers(0, 9)))
def test_fp8_needs_ada_or_later(capability: tuple[int, int]) -> None:
    """fp8 is refused exactly below compute capability 8.9, whatever else the plan allows; fp16 never for that."""
    runtime = here(compute_capability=capability, gpu="a GPU")
    refused = fp8_fault("fp8", runtime)
    assert (refused is None) == (capability >= (8, 9))
    assert fp8_fault("fp16", runtime) is None
    if refused is not None:
        assert f"a GPU here has {capability[0]}.{capability[1]}" in refused
        if capability >= (8, 0):
            passport = options(precision="fp8", hardware_compatibility="ampere_plus")
            assert refused in str(fault(passport, runtime=runtime))


def test_a_passport_survives_its_file(tmp_path: Path) -> None:
    """What is written is read back, types and all."""
    PASSPORT.save(tmp_path / "plan.json")
    assert PlanPassport.load(tmp_path / "plan.json") == PASSPORT


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"built_with": 3}', '{"built_with": {"compute_capability": []}, "options": {}}']
)
def test_a_broken_passport_is_one_sentence(tmp_path: Path, text: str) -> None:
    """A missing or broken file is named with the command that makes it anew."""
    folder = tmp_path / "models" / "chat" / "1"
    folder.mkdir(parents=True)
    command = f"fathom-export plan chat --repository {tmp_path}/models"
    with pytest.raises(SettingsError, match=r"plan\.json is missing; build the plan again: fathom-export plan chat"):
        PlanPassport.load(folder / "plan.json")
    (folder / "plan.json").write_text(text)
    with pytest.raises(SettingsError, match=r"plan\.json cannot be read") as raised:
        PlanPassport.load(folder / "plan.json")
    assert str(raised.value).endswith(command)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "bf16"}, "precision 'bf16' is unknown; valid: fp16, fp8"),
        ({"hardware_compatibility": "all"}, "valid: none, ampere_plus, same_compute_capability"),
        ({"workspace_bytes": 0}, "--workspace is 0"),
        ({"optimization_level": 6}, "--optimization-level is 6; valid: 0 to 5"),
    ],
)
def test_bad_options_are_named(changes: dict[str, object], words: str) -> None:
    """An option that TensorRT does not have is refused with those that it has."""
    with pytest.raises(SettingsError) as raised:
        PlanOptions(**changes)  # type: ignore[arg-type]
    assert words in str(raised.value)


def test_a_range_must_grow() -> None:
    """Shapes that shrink or have different ranks are refused."""
    with pytest.raises(SettingsError, match="do not grow"):
        ShapeRange((2, 1), (1, 1), (3, 1))
    with pytest.raises(SettingsError, match="different ranks"):
        ShapeRange((1,), (1, 1), (1, 1))


def test_the_command_repeats_the_options() -> None:
    """The command that mends a plan builds the same kind of plan."""
    asked = PlanOptions("fp8", 1 << 30, 4, "ampere_plus", True, True, True, True, True)
    assert plan_command(Path("/models/chat/3"), asked) == (
        "fathom-export plan chat --repository /models --precision fp8 --workspace 1073741824 --optimization-level 4 "
        "--hardware-compatibility ampere_plus --version-compatible --refit --strip --weight-streaming --sparsity"
    )


def test_a_files_hash_is_sha256(tmp_path: Path) -> None:
    """The sum of a known text, and of more than one block."""
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "b").write_bytes(bytes(3 << 20))
    assert hash_file(tmp_path / "b") == "bbd05cf6097ac9b1f89ea29d2542c1b7b67ee46848393895f5a9e43fa1f621e5"
