"""A decoupled model that answers at a set pace and counts what it did: the load test's measuring stick.

It speaks the protocol of an LLM. A word is a token, and a conversation costs three tokens more a message. A response
carries one token, except that every third one carries two, so whoever counts responses counts wrong. A text of "fail"
is refused as INVALID_ARGUMENT, "break" fails as INTERNAL after the first response, "hang" is answered after a minute.
What was asked goes to ``seen.jsonl`` beside the counts.
"""

import json
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


def _tensor(name, value, dtype):
    return pb_utils.Tensor(name, np.array([value], dtype=dtype))


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self._ttft_s = float(parameters["ttft_ms"]["string_value"]) / 1000
        self._itl_s = float(parameters["itl_ms"]["string_value"]) / 1000
        self._counts_file = Path(parameters["counts_file"]["string_value"])
        self._counts = {"requests": 0, "answered": 0, "input_tokens": 0, "output_tokens": 0}
        self._seen_file = self._counts_file.with_name("seen.jsonl")
        self._lock = threading.Lock()
        self._save()

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self._answer, args=(request,), daemon=True).start()

    def _save(self):
        beside = self._counts_file.with_suffix(".new")
        beside.write_text(json.dumps(self._counts))
        beside.replace(self._counts_file)

    def _answer(self, request):
        sender = request.get_response_sender()

        def value(name):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return None if tensor is None else tensor.as_numpy().reshape(-1)[0]

        if value("messages") is not None:
            messages = json.loads(value("messages"))
            words = [word for message in messages for word in message["content"].split()]
            num_input_tokens = len(words) + 3 * len(messages)
        else:
            words = value("text_input").decode().split()
            num_input_tokens = len(words)
        wanted = 16 if value("max_tokens") is None else int(value("max_tokens"))
        asked = {name: value(name) for name in ("text_input", "messages")}
        seen = {name: text.decode() for name, text in asked.items() if text is not None} | {"max_tokens": wanted}
        seen |= {name: float(value(name)) for name in ("temperature", "top_p") if value(name) is not None}
        with self._lock:
            self._counts["requests"] += 1
            self._save()
            with self._seen_file.open("a") as file:
                file.write(json.dumps(seen) + "\n")
        if words[:1] == ["fail"]:
            error = pb_utils.TritonError("the text asks for a failure", pb_utils.TritonError.INVALID_ARG)
            sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return

        time.sleep(60 if words[:1] == ["hang"] else self._ttft_s)
        sent, responses = 0, 0
        while sent < wanted:
            if responses:
                time.sleep(self._itl_s)
            if words[:1] == ["break"] and responses:
                error = pb_utils.TritonError("INTERNAL: the text asks to break", pb_utils.TritonError.INTERNAL)
                sender.send(
                    pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                )
                return
            tokens = min(2 if responses % 3 == 2 else 1, wanted - sent)
            sent += tokens
            responses += 1
            last = sent == wanted
            outputs = [
                _tensor("text_output", b"tick " * tokens, np.object_),
                _tensor("num_input_tokens", num_input_tokens, np.uint32),
                _tensor("num_output_tokens", tokens, np.uint32),
                pb_utils.Tensor("output_ids", np.arange(sent - tokens, sent, dtype=np.int32)),
            ]
            if last:
                outputs.append(_tensor("finish_reason", b"length", np.object_))
                with self._lock:
                    self._counts["answered"] += 1
                    self._counts["input_tokens"] += num_input_tokens
                    self._counts["output_tokens"] += sent
                    self._save()
            sender.send(
                pb_utils.InferenceResponse(outputs),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0,
            )
