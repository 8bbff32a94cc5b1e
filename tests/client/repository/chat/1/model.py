"""A stand-in for an LLM whose tokens are characters: it answers a prompt with the prompt, word by word.

A prompt may begin with one line of JSON that says how to behave:
``delay_s`` before each response; ``marker``, a file to write when the request is seen cancelled; ``error``, a pair of
Triton error code and message, sent after ``after`` words; ``echo`` true answers with the request's own tensors and
parameters as JSON; ``empty_final`` true ends with a flag alone; ``no_finish_reason`` true leaves that tensor out;
``started``, a file to write when the request arrives; ``indices``, sequence indices to send in place of the right ones.

Of ``n`` answers the first is the prompt, and each other one the prompt behind its number and a colon; streamed, they
take turns word by word. The log-probability of a token is minus a thousandth of its character's code point, and of the
``k`` likeliest tokens the first is that one and each other the one before, a thousandth lower.
"""

import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
LEAVE_AFTER_S = 0.1
"""Triton 2.51 crashes if the last response of a cancelled request is there before the one that was being written."""


def _text(tensor):
    return tensor.as_numpy().reshape(-1)[0].decode("utf-8")


def _plain(tensor):
    values = tensor.as_numpy().reshape(-1).tolist()
    return {
        "dtype": str(tensor.as_numpy().dtype),
        "shape": list(tensor.as_numpy().shape),
        "values": [value.decode("utf-8") if isinstance(value, bytes) else value for value in values],
    }


def _bytes(texts):
    return np.array([text.encode("utf-8") for text in texts], dtype=np.object_)


def _logprob(character, top):
    token = ord(character)
    likeliest = [{"token_id": token - each, "logprob": -(token + each) / 1000} for each in range(top)]
    return {"token_id": token, "logprob": -token / 1000, "top": likeliest}


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
            threading.Thread(target=self._answer_or_refuse, args=(tensors, context), daemon=True).start()

    def _answer_or_refuse(self, tensors, context):
        """Let no request hang, whatever it holds."""
        try:
            self._answer(tensors, context)
        except Exception as error:
            self._fail(context["sender"], f"the stand-in cannot read this: {error!r}", pb_utils.TritonError.INVALID_ARG)

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
        sampling = json.loads(_text(tensors["sampling_parameters"])) if "sampling_parameters" in tensors else {}
        streamed = "stream" in tensors and bool(tensors["stream"].as_numpy()[0])
        answers = [
            self._words(text if index == 0 else f"{index}:{text}", tensors, orders, streamed)
            for index in range(sampling.get("n", 1))
        ]
        rounds = max(len(words) for words, _ in answers)
        turns = [
            [(index, words[turn], reason if turn == len(words) - 1 else "")]
            for turn in range(rounds)
            for index, (words, reason) in enumerate(answers)
            if turn < len(words)
        ]
        if not streamed:
            turns = [[(index, "".join(words), reason) for index, (words, reason) in enumerate(answers)]]
        delay_s = orders.get("delay_s", 0) * (1 if streamed else len(re.findall(r"\S+\s*|\s+", text)))
        for number, parts in enumerate(turns):
            if self._ends_early(sender, context, orders, begin, number, delay_s):
                return
            last = number == len(turns) - 1
            outputs = self._outputs(prompt, parts, sampling, orders, first=number == 0)
            flags = FINAL if last and not orders.get("empty_final") else 0
            sender.send(pb_utils.InferenceResponse(output_tensors=outputs), flags=flags)
        if orders.get("empty_final"):
            sender.send(flags=FINAL)

    def _words(self, text, tensors, orders, streamed):
        """Cut an answer into what its responses carry, and say why it ends."""
        reason = "stop"
        if "max_tokens" in tensors and not orders.get("echo"):
            limit = int(tensors["max_tokens"].as_numpy()[0])
            if len(text) > limit:
                text, reason = text[:limit], "length"
        return (re.findall(r"\S+\s*|\s+", text) or [""] if streamed else [text]), reason

    def _outputs(self, prompt, parts, sampling, orders, *, first):
        texts = [text for _, text, _ in parts]
        outputs = [
            pb_utils.Tensor("text_output", _bytes(texts)),
            pb_utils.Tensor("num_input_tokens", np.array([len(prompt)], dtype=np.uint32)),
            pb_utils.Tensor("num_output_tokens", np.array([len(text) for text in texts], dtype=np.uint32)),
            pb_utils.Tensor("output_ids", np.array([ord(each) for text in texts for each in text], dtype=np.int32)),
        ]
        reasons = [reason for _, _, reason in parts]
        if any(reasons) and not orders.get("no_finish_reason"):
            outputs.append(pb_utils.Tensor("finish_reason", _bytes(reasons)))
        if sampling.get("n", 1) > 1:
            indices = orders.get("indices", [index for index, _, _ in parts])
            outputs.append(pb_utils.Tensor("sequence_index", np.array(indices, dtype=np.int32)))
        if "logprobs" in sampling:
            listed = [json.dumps([_logprob(each, sampling["logprobs"]) for each in text]) for text in texts]
            outputs.append(pb_utils.Tensor("logprobs", _bytes(listed)))
        if first and "prompt_logprobs" in sampling:
            listed = [{"token_id": ord(each), "logprob": None, "top": []} for each in prompt[:1]]
            listed += [_logprob(each, sampling["prompt_logprobs"]) for each in prompt[1:]]
            outputs.append(pb_utils.Tensor("prompt_logprobs", _bytes([json.dumps(listed)])))
        return outputs

    def _ends_early(self, sender, context, orders, begin, index, delay_s):
        """Wait the delay; true if the request ended here, cancelled, late or by an ordered error."""
        until = time.monotonic() + delay_s
        while True:
            if sender.is_cancelled():
                if "marker" in orders:
                    Path(orders["marker"]).write_text(f"cancelled after {index}", encoding="utf-8")
                time.sleep(LEAVE_AFTER_S)
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
        # a stream's error message has no code
        names = {
            name: name for name in ("ALREADY_EXISTS", "CANCELLED", "INTERNAL", "NOT_FOUND", "UNAVAILABLE", "UNKNOWN")
        }
        names["UNSUPPORTED"] = "UNIMPLEMENTED"
        prefix = next((f"{names[name]}: " for name in names if code == getattr(pb_utils.TritonError, name)), "")
        message = message if message.startswith("DEADLINE_EXCEEDED: ") else prefix + message
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)), flags=FINAL)
