"""Another model of the same Triton, asked without the network (business logic scripting, BLS)."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import triton_python_backend_utils as pb_utils

from fathom_server.vllm.tensors import OUTPUTS
from fathom_server.vllm.upstream import Tensors, UpstreamError

_KEPT_S: Final = 2.0
_UNAVAILABLE: Final = ("unavailable", "not ready", "not found", "unknown model")
"""In the message of an error that another server might not give; its code does not come through."""


class TritonUpstream:
    """A decoupled model of this Triton.

    Answers that have ended are kept a while. The stub drops its own reference to one some moments after the last
    response, on a thread without Python's lock; were that the last reference, Triton 2.51 would free Python's arrays
    there (``PbTensor::~PbTensor`` in pb_tensor.cc), which ends the process sooner or later, and later ones would wait
    for the lock while they hold the one that the next request needs.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._outputs = [tensor.name for tensor in OUTPUTS]
        self._kept: deque[tuple[float, Any]] = deque()

    def ask(self, request_id: str, inputs: Tensors) -> "TritonAnswer":
        """See ``Upstream.ask``."""
        request = pb_utils.InferenceRequest(
            model_name=self._model,
            request_id=request_id,
            requested_output_names=self._outputs,
            inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
        )
        try:
            return TritonAnswer(request.exec(decoupled=True), self._keep)
        except pb_utils.TritonModelException as error:
            raise UpstreamError(str(error), is_unavailable=_is_unavailable(str(error))) from error

    def close(self) -> None:
        """Wait until the stub has let go of the last answers, then give them up."""
        if self._kept:
            time.sleep(max(0.0, min(_KEPT_S, self._kept[-1][0] + _KEPT_S - time.monotonic())))
        self._kept.clear()

    def _keep(self, responses: Any) -> None:
        now = time.monotonic()
        self._kept.append((now, responses))
        while self._kept and self._kept[0][0] < now - _KEPT_S:
            try:
                self._kept.popleft()
            except IndexError:  # another thread was faster
                return


class TritonAnswer:
    """See ``UpstreamAnswer``; to be iterated to its end, once."""

    def __init__(self, responses: Any, keep: Any) -> None:
        self._responses = responses
        self._keep = keep

    def __iter__(self) -> Iterator[Tensors]:
        """See ``UpstreamAnswer.__iter__``."""
        message = None
        for response in self._responses:
            if response.has_error():
                message = message or response.error().message()
            elif tensors := response.output_tensors():  # the last response of some models is empty
                yield {tensor.name(): tensor.as_numpy() for tensor in tensors}
        self._keep(self._responses)
        if message is not None:
            raise UpstreamError(message, is_unavailable=_is_unavailable(message))

    def cancel(self) -> None:
        """See ``UpstreamAnswer.cancel``; Tritons before 25.04 have no such call, and the model runs to its end."""
        if hasattr(self._responses, "cancel"):
            self._responses.cancel()


def _is_unavailable(message: str) -> bool:
    return any(part in message.lower() for part in _UNAVAILABLE)
