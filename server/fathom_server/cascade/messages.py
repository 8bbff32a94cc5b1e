"""Tensors ↔ KServe messages, for a cascade that asks the models behind it over gRPC."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from fathom_client import protocol

_DATATYPES: Final = {tensor.name: tensor.datatype for tensor in protocol.GENERATE_INPUTS}
_FINAL_PARAMETER: Final = "triton_final_response"
_EMPTY_FINAL_PARAMETER: Final = "triton_enable_empty_final_response"
_MICROSECONDS: Final = 1e6


def infer_request(
    model: str,
    request_id: str,
    tensors: Mapping[str, npt.NDArray[Any]],
    parameters: Mapping[str, Any],
    timeout_s: float,
) -> service_pb2.ModelInferRequest:
    """A generation's request (tensors of ``protocol.GENERATE_INPUTS``), with the time that is left for it."""
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for key, told in parameters.items():
        if isinstance(told, bool):
            request.parameters[key].bool_param = told
        elif isinstance(told, int):
            request.parameters[key].int64_param = told
        else:
            request.parameters[key].string_param = str(told)
    request.parameters[_EMPTY_FINAL_PARAMETER].bool_param = True
    request.parameters[protocol.TIMEOUT_PARAMETER].int64_param = max(1, round(timeout_s * _MICROSECONDS))
    for name, value in tensors.items():
        datatype = _DATATYPES[name]
        request.inputs.add(name=name, datatype=datatype, shape=value.shape)
        if datatype == "BYTES":
            serialized = serialize_byte_tensor(value.astype(np.object_))
            request.raw_input_contents.append(serialized.item() if serialized.size else b"")
        else:
            request.raw_input_contents.append(np.ascontiguousarray(value, triton_to_np_dtype(datatype)).tobytes())
    return request


def response_tensors(response: service_pb2.ModelInferResponse) -> dict[str, npt.NDArray[Any]]:
    """A response's output tensors; elements of BYTES are ``bytes``. Raises ValueError where the message is broken."""
    tensors = {}
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.datatype == "BYTES":
            values = deserialize_bytes_tensor(content)
        else:
            values = np.frombuffer(content, dtype=triton_to_np_dtype(tensor.datatype))
        tensors[tensor.name] = values.reshape(tuple(tensor.shape))
    return tensors


def is_last(response: service_pb2.ModelInferResponse) -> bool:
    """Whether no response follows."""
    return bool(response.parameters[_FINAL_PARAMETER].bool_param)
