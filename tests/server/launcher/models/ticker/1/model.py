"""A decoupled model that answers COUNT times, INTERVAL_MS apart; with gauges it says how many requests it serves."""

import gc
import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Each request has a thread of its own."""

    def initialize(self, args):
        """Publish the launcher's gauges if the config asks for them."""
        self.lock = threading.Lock()
        self.running = 0
        self.families, self.gauges = [], []
        if json.loads(args["model_config"])["parameters"]["gauges"]["string_value"] == "yes":
            for name in ("fathom_num_requests_running", "fathom_num_requests_waiting"):
                family = pb_utils.MetricFamily(name=name, description=name, kind=pb_utils.MetricFamily.GAUGE)
                self.families.append(family)
                self.gauges.append(family.Metric(labels={"model": args["model_name"]}))

    def execute(self, requests):
        """Start answering."""
        for request in requests:
            count, interval_ms = (
                int(pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]) for name in ("COUNT", "INTERVAL_MS")
            )
            self.change(1)
            answer = (request.get_response_sender(), count, interval_ms)
            threading.Thread(target=self.answer, args=answer, daemon=True).start()

    def answer(self, sender, count, interval_ms):
        """Send the ticks."""
        for tick in range(count):
            time.sleep(interval_ms / 1000)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("TICK", np.array([tick], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self.change(-1)

    def change(self, by):
        """Count requests."""
        with self.lock:
            self.running += by
            if self.gauges:
                self.gauges[0].set(self.running)

    def finalize(self):
        """Give the metrics back before their families."""
        self.gauges.clear()
        gc.collect()
        self.families.clear()
