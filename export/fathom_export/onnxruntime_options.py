"""Names of ONNX Runtime's session options that more than one part of export sets."""

from typing import Final

FLOAT8_OPTION: Final = "session.disable_quant_qdq"
"""ONNX Runtime's CPU provider executes FP8 Quantize and Dequantize nodes only as they stand, with this option at 1."""

WEIGHTS_FOLDER_OPTION: Final = "session.model_external_initializers_file_folder_path"
"""Where the weights of a model lie that is given as bytes."""
