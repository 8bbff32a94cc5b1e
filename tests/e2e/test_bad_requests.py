"""Every wrong request is refused by name through the whole stack, and the next one is served."""

import grpc
import numpy as np
import pytest
from tests.serving import FathomServe
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from fathom_client import Client, InvalidRequestError, ModelNotFoundError, ServerUnavailableError
from fathom_client import protocol as names


@pytest.mark.parametrize(
    ("prompt", "options", "told"),
    [
        ("word " * 4000, {}, r"the prompt has \d+ tokens; the model takes at most 2047"),
        ("hi", {"max_tokens": 100_000}, "max_tokens is 100000, but a prompt of .* tokens leaves"),
        ([5, 99_999], {}, "input_ids holds 99999; the vocabulary has the ids 0 to 1535"),
    ],
)
def test_what_the_model_cannot_take_is_refused(client: Client, prompt, options: dict, told: str) -> None:
    """Limits that only the server knows are told with the value and the limit."""
    with pytest.raises(InvalidRequestError, match=told):
        client.generate("chat", prompt, **options)
    assert client.generate("chat", "hi", max_tokens=2, ignore_eos=True).num_output_tokens == 2


def raw_request(server: FathomServe, **tensors: np.ndarray) -> str:
    """Send tensors as they are, past the client's own checks, by NVIDIA's client; returns the error."""
    raw = InferenceServerClient(server.url)
    inputs = []
    for name, value in tensors.items():
        inputs.append(InferInput(name, value.shape, np_to_triton_dtype(value.dtype)))
        inputs[-1].set_data_from_numpy(value)
    errors: list[object] = []
    raw.start_stream(lambda result, error: errors.append(error))
    raw.async_stream_infer("chat", inputs, outputs=[InferRequestedOutput(names.TEXT_OUTPUT)])
    raw.stop_stream()
    raw.close()
    assert isinstance(errors[0], InferenceServerException)
    return str(errors[0].message())


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "send exactly one of text_input, messages and input_ids"),
        ({"text_input": np.array([b""], np.object_)}, "text_input is empty"),
        ({"text_input": np.array([b"\xff\xfe\xfa"], np.object_)}, "text_input is not UTF-8"),
        ({"text_input": np.array([b"x"], np.object_), "max_tokens": np.array([0], np.int32)}, "max_tokens is 0"),
        (
            {"text_input": np.array([b"x"], np.object_), "temperature": np.array([-1], np.float32)},
            "temperature is -1.0; it must be between 0",
        ),
        (
            {"text_input": np.array([b"x"], np.object_), "temperature": np.array([np.nan], np.float32)},
            "temperature is nan",
        ),
        ({"text_input": np.array([b"x"], np.object_), "top_p": np.array([1.5], np.float32)}, "top_p is 1.5"),
        ({"text_input": np.array([b"x"], np.object_), "top_k": np.array([-3], np.int32)}, "top_k is -3"),
        ({"messages": np.array([b"[{}]"], np.object_)}, r"messages\[0\].role must be a string"),
    ],
)
def test_server_refuses_what_other_clients_send(server: FathomServe, tensors: dict, told: str) -> None:
    """The server does not rely on our client's checks: NVIDIA's gets the parameter, its value and the range."""
    if not tensors:
        tensors = {"max_tokens": np.array([3], np.int32)}
    assert told.replace("\\", "") in raw_request(server, **tensors)


def test_any_number_of_refusals_leaves_the_server_alive(server: FathomServe, client: Client) -> None:
    """A thousand refused requests in a row are a thousand refusals by the same process: none ends the server."""
    before = server.triton_processes()
    for _ in range(1000):
        with pytest.raises(InvalidRequestError, match="leaves"):
            client.generate("small", "hi", max_tokens=100_000)
    assert server.triton_processes() == before


def test_refusals_as_statuses_leave_the_server_alive(server: FathomServe) -> None:
    """Callers who ask for errors as gRPC statuses, as ours does not, may be refused as often, too."""
    request = service_pb2.ModelInferRequest(model_name="small")
    request.inputs.add(name=names.TEXT_INPUT, datatype="BYTES", shape=[1])
    request.inputs.add(name=names.MAX_TOKENS, datatype="INT32", shape=[1])
    request.raw_input_contents.extend([b"\x02\0\0\0hi", (100_000).to_bytes(4, "little")])
    before = server.triton_processes()
    with grpc.insecure_channel(server.url) as channel:
        open_stream = channel.unary_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        for _ in range(800):
            with pytest.raises(grpc.RpcError) as refused:
                list(open_stream(request, timeout=30, metadata=(("triton_grpc_error", "true"),)))
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert server.triton_processes() == before


def test_unknown_model_is_named_with_those_that_are_there(client: Client) -> None:
    """A model that is not there is refused with the names of those that are."""
    with pytest.raises(ModelNotFoundError, match=r"chatt.*minilm"):
        client.generate("chatt", "hi")


def test_server_that_is_away_is_named() -> None:
    """Nobody at the address: the error names it."""
    with Client("127.0.0.1:1") as nobody, pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:1"):
        nobody.generate("chat", "hi")
