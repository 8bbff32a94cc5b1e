"""How weights and activations are quantised and pruned: what a spec may choose beside the precision."""

from dataclasses import dataclass, fields
from typing import Annotated, Final, Literal

from fathom_export.errors import SpecError
from fathom_export.spec.key import Key, check_ranges

Int4Method = Literal["rtn", "hqq"]
CalibrationMethod = Literal["max", "percentile", "mse"]
Sparsity = Literal["none", "2:4"]
SparsityMethod = Literal["magnitude", "wanda"]

BLOCK_SIZES: Final = (32, 128)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How weights and activations are quantised and pruned."""

    block_size: Annotated[int, Key("weights that share a scale (int4): 32 or 128")] = 32
    int4_method: Annotated[
        Int4Method, Key("int4 by round to nearest, or by HQQ, which needs the torch extra and is slower to export")
    ] = "rtn"
    calibration_text: Annotated[
        str, Key("UTF-8 file of text like the model's use (fp8, wanda); by default the model writes its own")
    ] = ""
    calibration_method: Annotated[CalibrationMethod, Key("how the range of activations is found (fp8)")] = "max"
    fp8_skip_budget: Annotated[
        float, Key("share of the weights' bytes, at most 1, in layers that hurt most and stay in fp16", minimum=0)
    ] = 0.0
    sparsity: Annotated[Sparsity, Key("keep two weights of every four, for TensorRT's sparse kernels")] = "none"
    sparsity_method: Annotated[
        SparsityMethod, Key("which two are kept: by magnitude, or by Wanda's activation-aware score")
    ] = "magnitude"

    def __post_init__(self) -> None:
        check_ranges(self, "quantisation")
        if self.block_size not in BLOCK_SIZES:
            raise SpecError(
                f"quantisation.block_size is {self.block_size}; valid values: {', '.join(map(str, BLOCK_SIZES))}"
            )
        _check_budget(self.fp8_skip_budget)

    def needs_calibration(self, precision: str) -> bool:
        """Whether activations must be looked at before the graph can be written."""
        return precision == "fp8" or (self.sparsity != "none" and self.sparsity_method == "wanda")

    def refuse_unused(self, precision: str, dialect: str) -> None:
        """Raise SpecError for a setting that would have no effect beside this precision and dialect."""
        is_int4, is_fp8, is_sparse = precision == "int4", precision == "fp8", self.sparsity != "none"
        portable_only = "" if dialect != "cuda" else " of the portable dialect"  # in the cuda one, of weights alone
        int4 = (is_int4, "precision int4")
        fp8 = (is_fp8 and not portable_only, f"precision fp8{portable_only}")
        needs = {
            "block_size": int4,
            "int4_method": int4,
            "calibration_text": (
                self.needs_calibration(precision) and not portable_only,
                f"precision fp8{portable_only} or sparsity_method wanda",
            ),
            "calibration_method": fp8,
            "fp8_skip_budget": fp8,
            "sparsity": (dialect == "portable", "dialect portable: only TensorRT has kernels that gain from it"),
            "sparsity_method": (is_sparse, "sparsity 2:4"),
        }
        for setting in fields(self):
            applies, condition = needs[setting.name]
            if not applies and getattr(self, setting.name) != setting.default:
                value = getattr(self, setting.name)
                raise SpecError(f"quantisation.{setting.name} is {value!r}, but it goes with {condition}; leave it out")


@dataclass(frozen=True, slots=True)
class EncoderQuantisation:
    """How an encoder's weights and activations are quantised."""

    calibration_text: Annotated[
        str, Key("UTF-8 file of text like the model's use, a text a line; precision fp8 needs it")
    ] = ""
    calibration_method: Annotated[CalibrationMethod, Key("how the range of activations is found (fp8)")] = "max"
    fp8_skip_budget: Annotated[
        float, Key("share of the weights' bytes, at most 1, in layers that hurt most and stay in fp16", minimum=0)
    ] = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, "quantisation")
        _check_budget(self.fp8_skip_budget)

    def refuse_unused(self, precision: str) -> None:
        """Raise SpecError for a setting that has no effect beside this precision, or for text that it lacks."""
        if precision == "fp8" and not self.calibration_text:
            raise SpecError(
                "precision fp8 of an encoder needs quantisation.calibration_text, a file of text like its use: an "
                "encoder writes none of its own"
            )
        for setting in fields(self):
            value = getattr(self, setting.name)
            if precision != "fp8" and value != setting.default:
                raise SpecError(
                    f"quantisation.{setting.name} is {value!r}, but it goes with precision fp8; leave it out"
                )


def _check_budget(share: float) -> None:
    if share > 1:
        raise SpecError(f"quantisation.fp8_skip_budget is {share}; it must be a share from 0 to 1")
