"""A stand-in for an LLM whose tokens are characters: it answers a prompt with the prompt, word by word.

A prompt may begin with one line of JSON that says how to behave:
``delay_s`` before each response; ``marker``, a file to write when the request is seen cancelled; ``error``, a pair of
Triton error code and message, sent after ``after`` words; ``echo`` true answers with the request's own tensors and
parameters as JSON; ``empty_final`` true ends with a flag alone; ``no_finish_reason`` true leaves that tensor out;
``started``, a file to write when the request arrives.
"""

import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def _text(tensor):
    return tensor.as_numpy().reshape(-1)[0].decode("utf-8")


def _plain(tensor):
    values = tensor.as_numpy().reshape(-1).tolist()
    return {
        "dtype": str(tensor.as_numpy().dtype),
        "shape": list(tensor.as_numpy().shape),
        "values": [value.decode("utf-8") if isinstance(value, bytes) else value for value in values],
    }


class TritonPythonModel:
    """Answers each request in a thread of its own, so that many streams run at once."""

    def execute(self, requests):
        """Take the requests and return at once; the answers come through the response senders."""
        for request in requests:
            tensors = {tensor.name(): tensor for tensor in request.inputs()}
            context = {
                "sender": request.get_response_sender(),
                "id": request.request_id(),
                "parameters": json.loads(request.parameters() or "{}"),
                "timeout_us": request.timeout(),
            }
            threading.Thread(target=self._answer, args=(tensors, context), daemon=True).start()

    def _prompt(self, tensors):
        if "input_ids" in tensors:
            return "".join(map(chr, tensors["input_ids"].as_numpy().tolist()))
        if "messages" in tensors:
            return json.loads(_text(tensors["messages"]))[-1]["content"]
        return _text(tensors["text_input"])

    def _answer(self, tensors, context):
        sender, begin = context["sender"], time.monotonic()
        prompt = self._prompt(tensors)
        orders = {}
        if prompt.startswith("{"):
            line, _, prompt = prompt.partition("\n")
            orders = json.loads(line)
        if "started" in orders:
            Path(orders["started"]).write_text("started", encoding="utf-8")
        text = prompt
        if orders.get("echo"):
            inputs = {name: _plain(tensor) for name, tensor in tensors.items() if name != "text_input"}
            seen = {key: context[key] for key in ("id", "parameters", "timeout_us")}
            text = json.dumps({"inputs": inputs, **seen})
        reason = "stop"
        if "max_tokens" in tensors and not orders.get("echo"):
            limit = int(tensors["max_tokens"].as_numpy()[0])
            if len(text) > limit:
                text, reason = text[:limit], "length"
        streamed = "stream" in tensors and bool(tensors["stream"].as_numpy()[0])
        words = re.findall(r"\S+\s*|\s+", text)
        pieces = words or [""] if streamed else [text]
        delay_s = orders.get("delay_s", 0) * (1 if streamed else len(words))
        for index, piece in enumerate(pieces):
            if self._ends_early(sender, context, orders, begin, index, delay_s):
                return
            last = index == len(pieces) - 1
            outputs = [
                pb_utils.Tensor("text_output", np.array([piece.encode("utf-8")], dtype=np.object_)),
                pb_utils.Tensor("num_input_tokens", np.array([len(prompt)], dtype=np.uint32)),
                pb_utils.Tensor("num_output_tokens", np.array([len(piece)], dtype=np.uint32)),
                pb_utils.Tensor("output_ids", np.array([ord(character) for character in piece], dtype=np.int32)),
            ]
            if last and not orders.get("no_finish_reason"):
                outputs.append(pb_utils.Tensor("finish_reason", np.array([reason.encode()], dtype=np.object_)))
            flags = FINAL if last and not orders.get("empty_final") else 0
            sender.send(pb_utils.InferenceResponse(output_tensors=outputs), flags=flags)
        if orders.get("empty_final"):
            sender.send(flags=FINAL)

    def _ends_early(self, sender, context, orders, begin, index, delay_s):
        """Wait the delay; true if the request ended here, cancelled, late or by an ordered error."""
        until = time.monotonic() + delay_s
        while True:
            if sender.is_cancelled():
                if "marker" in orders:
                    Path(orders["marker"]).write_text(f"cancelled after {index}", encoding="utf-8")
                self._fail(sender, "cancelled by the caller", pb_utils.TritonError.CANCELLED)
                return True
            limit_us = context["timeout_us"]
            if limit_us and (time.monotonic() - begin) * 1e6 > limit_us:
                if "marker" in orders:
                    Path(orders["marker"]).write_text(f"late after {index}", encoding="utf-8")
                self._fail(sender, "DEADLINE_EXCEEDED: the answer is late", pb_utils.TritonError.CANCELLED)
                return True
            if time.monotonic() >= until:
                break
            time.sleep(min(0.005, delay_s))
        if "error" in orders and index == orders.get("after", 0):
            code, message = orders["error"]
            self._fail(sender, message, getattr(pb_utils.TritonError, code))
            return True
        return False

    def _fail(self, sender, message, code):
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)), flags=FINAL)
