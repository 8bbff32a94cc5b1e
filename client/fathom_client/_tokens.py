"""What an LLM's tokenizer model is asked, and what it answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from tritonclient.grpc import service_pb2

from fathom_client import _requests, protocol
from fathom_client._options import Message
from fathom_client._results import Tokenization
from fathom_client._tensors import Tensor, read_integers, read_strings
from fathom_client.errors import ProtocolError


def tokenize_request(
    model: str,
    prompt: str | Sequence[Message | Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    chat_template_kwargs: Mapping[str, Any] | None,
    output: str,
) -> service_pb2.ModelInferRequest:
    """Ask for a text's or a conversation's token ids, or for their number alone; raises InvalidArgumentError."""
    if isinstance(prompt, str):
        return _request(model, _requests.text_prompt(prompt), output)
    tensor = _requests.messages_prompt(prompt, {"tools": tools, "chat_template_kwargs": chat_template_kwargs})
    return _request(model, tensor, output)


def detokenize_request(model: str, token_ids: Sequence[int]) -> service_pb2.ModelInferRequest:
    """Ask for the text of token ids; raises InvalidArgumentError."""
    _, datatype, length, contents = _requests.ids_prompt("token_ids", token_ids)
    return _request(model, (protocol.OUTPUT_IDS, datatype, length, contents), protocol.TEXT_OUTPUT)


def read_tokens(model: str, response: service_pb2.ModelInferResponse) -> Tokenization:
    """Read token ids; raises ProtocolError."""
    return Tokenization(_read(model, response, protocol.INPUT_IDS, read_integers), model)


def read_count(model: str, response: service_pb2.ModelInferResponse) -> int:
    """Read a number of tokens; raises ProtocolError."""
    count: int = _read(model, response, protocol.NUM_INPUT_TOKENS, lambda tensor: read_integers(tensor)[0])
    return count


def read_text(model: str, response: service_pb2.ModelInferResponse) -> str:
    """Read a text; raises ProtocolError."""
    text: str = _read(model, response, protocol.TEXT_OUTPUT, lambda tensor: read_strings(tensor)[0])
    return text


def _request(model: str, tensor: Tensor, output: str) -> service_pb2.ModelInferRequest:
    request = _requests.plain_request(_requests.check_model(model) + protocol.TOKENIZER_SUFFIX, tensor)
    request.outputs.add(name=output)
    return request


def _read(model: str, response: service_pb2.ModelInferResponse, name: str, read: Any) -> Any:
    try:
        for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
            if tensor.name == name:
                return read((tensor.datatype, content))
        raise KeyError(name)
    except (KeyError, ValueError, IndexError) as error:
        raise ProtocolError(
            f"the response does not fit ({error!r}); is {model + protocol.TOKENIZER_SUFFIX!r} the tokenizer model of "
            "an LLM of this version of Fathom?",
            model=model,
            request_id=response.id,
        ) from error
