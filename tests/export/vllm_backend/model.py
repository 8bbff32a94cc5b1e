"""Triton's vLLM backend as far as its wire goes, without vLLM: its tensors, its JSON, its errors, its cancellation.

Written after ``src/model.py`` and ``src/utils`` of triton-inference-server/vllm_backend. What vLLM itself would refuse
in ``model.json`` and in sampling parameters it refuses by the names that were read out of its source. Instead of a
model, the answer recites the prompt's tokens: from where the seed says, where the temperature is above 0. What it was
asked, and how each request ended, goes to the file that FATHOM_TEST_VLLM_RECORD names, a line of JSON each.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

from fathom_export.vllm.arguments import known_arguments

TOKEN_S = 0.002
FLAGS = ("stream", "return_finish_reason", "return_logprobs", "return_num_input_tokens", "return_num_output_tokens")
UNHEALTHY = "unhealthy"


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        assert config["model_transaction_policy"]["decoupled"], "must be decoupled"
        assert config["max_batch_size"] == 0
        arguments = json.loads((Path(pb_utils.get_model_dir()) / "model.json").read_text())
        table = known_arguments()
        for name, value in arguments.items():
            table.check(name, value, name)  # as AsyncEngineArgs(**arguments) would
        gpus = arguments["tensor_parallel_size"] * arguments["pipeline_parallel_size"]
        assert gpus == 1 or args["model_instance_kind"] == "MODEL", "KIND_GPU is for single-GPU models"
        self._known = table.sampling
        self._max_model_len = arguments["max_model_len"]
        self._tokenizer = Tokenizer.from_file(str(Path(arguments["model"]) / "tokenizer.json"))
        self._record = Path(os.environ["FATHOM_TEST_VLLM_RECORD"])
        self._lock = threading.Lock()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            threading.Thread(target=self._infer, args=(request,), daemon=True).start()

    def _infer(self, request: Any) -> None:
        sender = request.get_response_sender()
        given = {tensor.name(): tensor.as_numpy()[0] for tensor in request.inputs()}
        prompt, parameters = given["text_input"].decode(), json.loads(given["sampling_parameters"])
        flags = {name: bool(given.get(name, False)) for name in FLAGS}
        if prompt == UNHEALTHY:
            message = "Model is unavailable due to unhealthy vLLM engine"
            error = pb_utils.TritonError(message, pb_utils.TritonError.UNAVAILABLE)
            sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        try:
            end = self._answer(sender, prompt, parameters, flags)
        except Exception as error:
            end = f"error: {error}"
            response = pb_utils.InferenceResponse(
                output_tensors=[_strings("text_output", "N/A")],
                error=pb_utils.TritonError(f"Error generating stream: {error}"),
            )
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        line = {"prompt": prompt, "parameters": parameters, "flags": flags, "end": end, "id": request.request_id()}
        with self._lock, self._record.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _answer(self, sender: Any, prompt: str, parameters: dict[str, Any], flags: dict[str, bool]) -> str:
        strange = [name for name in parameters if name not in self._known]
        ids = self._tokenizer.encode(prompt).ids
        if strange or not 0 <= parameters["temperature"] <= 2:
            # TritonSamplingParams.from_dict logs what was wrong and gives None, on which the backend then stumbles
            raise AttributeError("'NoneType' object has no attribute 'lora_name'")
        if parameters["max_tokens"] + len(ids) > self._max_model_len:
            raise ValueError("the prompt is too long")
        if "structured_outputs" in parameters:
            json.loads(parameters["structured_outputs"])  # the backend takes a text
        start = parameters.get("seed", 0) % len(ids) if parameters["temperature"] > 0 else 0
        tokens: list[int] = []
        held = max((len(word) for word in parameters["stop"]), default=1) - 1
        text, given, reason = "", 0, None
        while reason is None:
            time.sleep(TOKEN_S)
            tokens.append(ids[(start + len(tokens)) % len(ids)])
            text = self._tokenizer.decode(tokens, skip_special_tokens=parameters["skip_special_tokens"])
            stop = next((word for word in parameters["stop"] if word in text), None)
            if stop is not None:
                text, reason = text[: text.index(stop)], "stop"
            elif len(tokens) == parameters["max_tokens"]:
                reason = "length"
            elif len(tokens) == len(ids) and not parameters["ignore_eos"]:
                reason = "stop"
            # as vLLM: a character's first bytes wait, and as many characters as may begin a stop string
            shown = text if reason else text[: max(given, len(text) - held)].removesuffix("\ufffd")
            self._send(sender, shown[given:], tokens[-1], len(ids), reason, parameters["logprobs"], flags)
            given = max(given, len(shown))
            if reason is None and sender.is_cancelled():
                cancelled = pb_utils.TritonError("Request was cancelled", pb_utils.TritonError.CANCELLED)
                sender.send(
                    pb_utils.InferenceResponse(error=cancelled), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                )
                return f"cancelled after {len(tokens)}"
        return reason

    def _send(
        self, sender: Any, text: str, token: int, prompt: int, reason: str | None, top: int, flags: dict[str, bool]
    ) -> None:
        size = self._tokenizer.get_vocab_size()
        # as vLLM: the chosen token first, then the likeliest, among which it is the second here
        ranked = {1: (token + 1) % size, 2: token, 3: (token + 2) % size}
        order = [2, *[rank for rank in range(1, top + 1) if rank in ranked]]
        logprobs = {
            ranked[rank]: {
                "logprob": -0.5 * rank,
                "rank": rank,
                "decoded_token": self._tokenizer.decode([ranked[rank]]),
            }
            for rank in order
        }
        outputs = [_strings("text_output", text)]
        if flags["return_finish_reason"]:
            outputs.append(_strings("finish_reason", str(reason)))
        if flags["return_logprobs"]:
            outputs.append(_strings("logprobs", json.dumps([logprobs])))
        if flags["return_num_input_tokens"]:
            outputs.append(pb_utils.Tensor("num_input_tokens", np.asarray(prompt, dtype=np.uint32)))
        if flags["return_num_output_tokens"]:
            outputs.append(pb_utils.Tensor("num_output_tokens", np.asarray([1], dtype=np.uint32)))
        last = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if reason else 0
        sender.send(pb_utils.InferenceResponse(output_tensors=outputs), flags=last)


def _strings(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.asarray([text.encode()], dtype=np.object_))
