"""A model that streams: every running request gets a token a step, one response each, as fast as Triton takes them."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One thread steps for all requests."""

    def initialize(self, args):
        """Start the thread."""
        self._running = []
        self._more = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._step)
        self._thread.start()

    def execute(self, requests):
        """Take requests."""
        with self._more:
            for request in requests:
                tokens = int(pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy()[0])
                self._running.append([request.get_response_sender(), 0, tokens])
            self._more.notify()

    def finalize(self):
        """End the thread."""
        with self._more:
            self._is_over = True
            self._more.notify()
        self._thread.join()

    def _step(self):
        while True:
            with self._more:
                self._more.wait_for(lambda: self._running or self._is_over)
                if self._is_over:
                    return
                running = list(self._running)
            for request in running:
                sender, index, tokens = request
                request[1] += 1
                outputs = [
                    pb_utils.Tensor("text_output", np.array([f"word{index} ".encode()], dtype=np.object_)),
                    pb_utils.Tensor("num_input_tokens", np.array([1], dtype=np.uint32)),
                    pb_utils.Tensor("num_output_tokens", np.array([1], dtype=np.uint32)),
                    pb_utils.Tensor("output_ids", np.array([index], dtype=np.int32)),
                ]
                if request[1] == tokens:
                    outputs.append(pb_utils.Tensor("finish_reason", np.array([b"length"], dtype=np.object_)))
                sender.send(pb_utils.InferenceResponse(outputs), flags=FINAL if request[1] == tokens else 0)
            with self._more:
                self._running = [request for request in self._running if request[1] < request[2]]
