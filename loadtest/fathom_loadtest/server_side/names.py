"""Names of Triton's own metrics; the engine's are in ``fathom_client.metric_names``."""

from typing import Final

SUCCESS: Final = "nv_inference_request_success"
FAILURE: Final = "nv_inference_request_failure"
INFERENCES: Final = "nv_inference_count"
EXECUTIONS: Final = "nv_inference_exec_count"
PENDING: Final = "nv_inference_pending_request_count"
REQUEST_US: Final = "nv_inference_request_duration_us"
QUEUE_US: Final = "nv_inference_queue_duration_us"
COMPUTE_INPUT_US: Final = "nv_inference_compute_input_duration_us"
COMPUTE_INFER_US: Final = "nv_inference_compute_infer_duration_us"
COMPUTE_OUTPUT_US: Final = "nv_inference_compute_output_duration_us"

GPU_UTILIZATION: Final = "nv_gpu_utilization"
GPU_MEMORY_USED: Final = "nv_gpu_memory_used_bytes"
GPU_MEMORY_TOTAL: Final = "nv_gpu_memory_total_bytes"
GPU_POWER: Final = "nv_gpu_power_usage"

MODEL: Final = "model"
GPU: Final = "gpu_uuid"
