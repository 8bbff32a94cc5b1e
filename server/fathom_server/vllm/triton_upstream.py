"""Another model of the same Triton, asked without the network (business logic scripting, BLS)."""

from collections.abc import Iterator
from typing import Any

import triton_python_backend_utils as pb_utils

from fathom_server.vllm.tensors import OUTPUTS
from fathom_server.vllm.upstream import Tensors, UpstreamError


class TritonUpstream:
    """A decoupled model of this Triton."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._outputs = [tensor.name for tensor in OUTPUTS]

    def ask(self, request_id: str, inputs: Tensors) -> "TritonAnswer":
        """See ``Upstream.ask``."""
        request = pb_utils.InferenceRequest(
            model_name=self._model,
            request_id=request_id,
            requested_output_names=self._outputs,
            inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
        )
        try:
            return TritonAnswer(request.exec(decoupled=True))
        except pb_utils.TritonModelException as error:
            raise UpstreamError(str(error), is_unavailable=True) from error


class TritonAnswer:
    """See ``UpstreamAnswer``."""

    def __init__(self, responses: Any) -> None:
        self._responses = responses

    def __iter__(self) -> Iterator[Tensors]:
        """See ``UpstreamAnswer.__iter__``."""
        for response in self._responses:
            if response.has_error():
                error = response.error()
                unavailable = error.code() == pb_utils.TritonError.UNAVAILABLE
                raise UpstreamError(error.message(), is_unavailable=unavailable)
            tensors = response.output_tensors()
            if tensors:  # the last response of some models is empty
                yield {tensor.name(): tensor.as_numpy() for tensor in tensors}

    def cancel(self) -> None:
        """See ``UpstreamAnswer.cancel``; Tritons before 25.04 have no such call, and the model runs to its end."""
        if hasattr(self._responses, "cancel"):
            self._responses.cancel()
