"""What TensorRT does, as far as a plan's build and use show it, played behind the stand-in's strict face.

The parser reads the graph with onnx and holds it to TensorRT's documented rules; an "engine" computes with ONNX Runtime
on the very addresses that it is given, so that a plan's answers can be compared.
"""

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from tests.export.tensorrt.played_cuda import PlayedCuda
from tests.export.tensorrt.stand_in import StandIn

MAGIC = b"played plan\n"
TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}
ONNX_TYPES = {1: "FLOAT", 10: "HALF", 7: "INT64", 6: "INT32", 9: "BOOL"}
SCRATCH_BYTES = 4096


class PlayedTensorRT:
    """One version of TensorRT: ``stand_in.module`` is the module.

    ``unknown`` are operators that its parser does not know, ``refused`` those that it knows and refuses, by reason.
    ``build_error`` makes the builder fail; ``on_step`` is called at each step of a build.
    """

    def __init__(self, description: dict[str, Any], cuda: PlayedCuda) -> None:
        behaviours = {name.replace("__", ".", 1): getattr(self, name) for name in dir(type(self)) if name[0].isupper()}
        behaviours = {name.replace(".init", ".__init__"): call for name, call in behaviours.items()}
        self.stand_in = StandIn(description, behaviours)
        self.trt = self.stand_in.module
        self.cuda = cuda
        self.unknown: set[str] = set()
        self.refused: dict[str, str] = {}
        self.build_error: str | None = None
        self.on_step: Any = lambda: None
        self.executions = 0

    # ---- builder ----

    def Builder__init(self, builder: Any, logger: Any) -> None:
        builder._played.update(logger=logger, error_recorder=None)

    def Builder__create_network(self, builder: Any, flags: int = 0) -> Any:
        members = self.trt.NetworkDefinitionCreationFlag
        assert flags >> len(list(members)) == 0, "flags hold a bit of no member"
        assert flags & 1 << int(members.STRONGLY_TYPED), "the network is weakly typed"
        return self.stand_in.new("INetworkDefinition", inputs=[], outputs=[], model=None)

    def Builder__create_builder_config(self, builder: Any) -> Any:
        return self.stand_in.new(
            "IBuilderConfig", flags=set(), profiles=[], cache=None, pools={}, progress_monitor=None
        )

    def Builder__create_optimization_profile(self, builder: Any) -> Any:
        return self.stand_in.new("IOptimizationProfile", shapes={})

    def Builder__build_serialized_network(self, builder: Any, network: Any, config: Any) -> Any:
        monitor = config._played["progress_monitor"]
        if monitor is not None and not self._play_progress(monitor):
            return None
        if self.build_error is not None:
            builder._played["logger"].log(self.trt.ILogger.Severity.ERROR, self.build_error)
            code = self.trt.ErrorCodeTRT.INVALID_STATE
            builder._played["error_recorder"].report_error(code, "a reason from the recorder")
            return None
        profiles = [profile._played["shapes"] for profile in config._played["profiles"]]
        for tensor in network._played["inputs"]:
            for shapes in profiles:
                assert tensor.name in shapes, f"{tensor.name} has no shapes in a profile"
                for end in shapes[tensor.name]:
                    fixed = zip(tensor.shape, end, strict=True)
                    assert all(real in (-1, asked) for real, asked in fixed), (tensor.name, tensor.shape, end)
        flags = sorted(flag.name for flag in config._played["flags"])
        head = {"version": self.trt.__version__, "profiles": profiles, "flags": flags}
        model = network._played["model"].SerializeToString()
        return self.stand_in.new("IHostMemory", MAGIC + json.dumps(head).encode() + b"\n" + model)

    def _play_progress(self, monitor: Any) -> bool:
        monitor.phase_start("Building engine", None, 3)
        monitor.phase_start("Timing graph nodes", "Building engine", 2)
        for step in range(3):
            self.on_step()
            if not monitor.step_complete("Building engine", step):
                return False
        monitor.phase_finish("Timing graph nodes")
        monitor.phase_finish("Building engine")
        return True

    def IBuilderConfig__set_flag(self, config: Any, flag: Any) -> None:
        config._played["flags"].add(flag)

    def IBuilderConfig__set_memory_pool_limit(self, config: Any, pool: Any, size: int) -> None:
        config._played["pools"][pool.name] = size

    def IBuilderConfig__add_optimization_profile(self, config: Any, profile: Any) -> int:
        config._played["profiles"].append(profile)
        return len(config._played["profiles"]) - 1

    def IBuilderConfig__create_timing_cache(self, config: Any, content: Any) -> Any:
        return self.stand_in.new("ITimingCache", content=bytes(content))

    def IBuilderConfig__set_timing_cache(self, config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        content = cache._played["content"]
        if content and not content.startswith(self._timings()) and not ignore_mismatch:
            return False
        config._played["cache"] = cache
        return True

    def IBuilderConfig__get_timing_cache(self, config: Any) -> Any:
        return config._played["cache"]

    def ITimingCache__serialize(self, cache: Any) -> Any:
        content = cache._played["content"] or self._timings()
        return self.stand_in.new("IHostMemory", content + b" one build")

    def _timings(self) -> bytes:
        return f"timings of {self.trt.__version__}:".encode()

    def IOptimizationProfile__set_shape(self, profile: Any, name: str, low: Any, mid: Any, high: Any) -> None:
        if not all(0 <= a <= b <= c for a, b, c in zip(low, mid, high, strict=True)):
            raise ValueError(f"{name}: shapes do not grow")
        profile._played["shapes"][name] = [list(low), list(mid), list(high)]

    def INetworkDefinition__num_inputs(self, network: Any) -> int:
        return len(network._played["inputs"])

    def INetworkDefinition__get_input(self, network: Any, index: int) -> Any:
        return network._played["inputs"][index]

    # ---- parser ----

    def OnnxParser__init(self, parser: Any, network: Any, logger: Any) -> None:
        parser._played.update(network=network, logger=logger, errors=[], subgraphs=[])

    def OnnxParser__supports_operator(self, parser: Any, name: str) -> bool:
        return name not in self.unknown

    def OnnxParser__supports_model_v2(self, parser: Any, content: Any, path: str | None = None) -> bool:
        model = onnx.load_from_string(bytes(content))
        refused = [index for index, node in enumerate(model.graph.node) if node.op_type in self.refused]
        for index in refused:
            parser._played["errors"].append((index, model.graph.node[index]))
        rest = [index for index in range(len(model.graph.node)) if index not in refused]
        parser._played["subgraphs"] = [(rest, True), *(([index], False) for index in refused)]
        assert path is not None
        assert Path(path).is_file(), "external weights are sought beside the path"
        return not refused

    def OnnxParser__parse_from_file(self, parser: Any, path: str) -> bool:
        network = parser._played["network"]
        assert network._played["model"] is None, "a network was parsed into twice"
        model = onnx.load(path)
        for index, node in enumerate(model.graph.node):
            if node.op_type in self.refused or node.op_type in self.unknown:
                parser._played["errors"].append((index, node))
                return False
        onnx.checker.check_model(model, full_check=True)  # strongly typed: every type must follow from the graph
        self._check_caches(model.graph)
        network._played["model"] = model
        for place in ("input", "output"):
            for value in getattr(model.graph, place):
                kind = value.type.tensor_type
                shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
                dtype = getattr(self.trt.DataType, ONNX_TYPES[kind.elem_type])
                tensor = self.stand_in.new("ITensor", name=value.name, shape=shape, dtype=dtype)
                network._played[f"{place}s"].append(tensor)
        return True

    def _check_caches(self, graph: Any) -> None:
        """TensorRT's KVCacheUpdate: the cache is a network input of static length, the result a network output."""
        inputs = {value.name: value.type.tensor_type for value in graph.input}
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            if node.op_type == "TensorScatter":
                assert node.input[0] in inputs
                assert node.output[0] in outputs
                assert inputs[node.input[0]].shape.dim[2].dim_value > 0
                assert ONNX_TYPES[inputs[node.input[2]].elem_type] in ("INT32", "INT64")

    def OnnxParser__num_errors(self, parser: Any) -> int:
        return len(parser._played["errors"])

    def OnnxParser__get_error(self, parser: Any, index: int) -> Any:
        number, node = parser._played["errors"][index]
        return self.stand_in.new("ParserError", number=number, node=node)

    def OnnxParser__num_subgraphs(self, parser: Any) -> int:
        return len(parser._played["subgraphs"])

    def OnnxParser__is_subgraph_supported(self, parser: Any, index: int) -> bool:
        return bool(parser._played["subgraphs"][index][1])

    def OnnxParser__get_subgraph_nodes(self, parser: Any, index: int) -> list[int]:
        return list(parser._played["subgraphs"][index][0])

    def ParserError__node(self, error: Any) -> int:
        return int(error._played["number"])

    def ParserError__node_name(self, error: Any) -> str:
        return str(error._played["node"].name)

    def ParserError__node_operator(self, error: Any) -> str:
        return str(error._played["node"].op_type)

    def ParserError__desc(self, error: Any) -> str:
        return self.refused.get(error._played["node"].op_type, "no importer")

    def ParserError__code(self, error: Any) -> Any:
        return self.trt.ErrorCode.UNSUPPORTED_NODE_ATTR

    def ParserError__func(self, error: Any) -> str:
        return "importNode"

    # ---- runtime ----

    def Runtime__init(self, runtime: Any, logger: Any) -> None:
        runtime._played.update(logger=logger)

    def Runtime__deserialize_cuda_engine(self, runtime: Any, plan: Any) -> Any:
        content = bytes(plan)
        if not content.startswith(MAGIC):
            runtime._played["logger"].log(self.trt.ILogger.Severity.ERROR, "magicTag is wrong")
            return None
        head, _, model = content[len(MAGIC) :].partition(b"\n")
        options = ort.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        tensors = {}
        for mode, values in (("INPUT", session.get_inputs()), ("OUTPUT", session.get_outputs())):
            for value in values:
                kind = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}[value.type]
                tensors[value.name] = (mode, kind, value.shape)
        return self.stand_in.new("ICudaEngine", session=session, tensors=tensors, **json.loads(head))

    def ICudaEngine__num_io_tensors(self, engine: Any) -> int:
        return len(engine._played["tensors"])

    def ICudaEngine__get_tensor_name(self, engine: Any, index: int) -> str:
        return list(engine._played["tensors"])[index]

    def ICudaEngine__get_tensor_dtype(self, engine: Any, name: str) -> Any:
        return getattr(self.trt.DataType, engine._played["tensors"][name][1])

    def ICudaEngine__get_tensor_location(self, engine: Any, name: str) -> Any:
        return self.trt.TensorLocation.DEVICE

    def ICudaEngine__get_aliased_input_tensor(self, engine: Any, name: str) -> str | None:
        return name.replace("present.", "past.") if name.startswith("present.") else None

    def ICudaEngine__num_optimization_profiles(self, engine: Any) -> int:
        return len(engine._played["profiles"])

    def ICudaEngine__get_tensor_profile_shape(self, engine: Any, name: str, profile: int) -> list[list[int]]:
        shapes: list[list[int]] = engine._played["profiles"][profile][name]
        return shapes

    def ICudaEngine__get_device_memory_size_for_profile_v2(self, engine: Any, profile: int) -> int:
        return SCRATCH_BYTES * (profile + 1)

    def ICudaEngine__get_weight_streaming_automatic_budget(self, engine: Any) -> int:
        return 12345

    def ICudaEngine__create_execution_context(self, engine: Any, strategy: Any = None) -> Any:
        assert strategy is self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return self.stand_in.new("IExecutionContext", of=engine, profile=0, shapes={}, addresses={}, scratch=None)

    def IExecutionContext__set_optimization_profile_async(self, context: Any, profile: int, stream: int) -> bool:
        context._played["profile"] = profile
        return True

    def IExecutionContext__set_device_memory(self, context: Any, address: int, size: int) -> None:
        assert address % 256 == 0
        context._played["scratch"] = (self.cuda.at(address, size), size)

    def IExecutionContext__set_input_shape(self, context: Any, name: str, shape: Any) -> bool:
        low, _, high = context._played["of"]._played["profiles"][context._played["profile"]][name]
        context._played["shapes"][name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def IExecutionContext__set_tensor_address(self, context: Any, name: str, address: int) -> bool:
        assert name in context._played["of"]._played["tensors"]
        context._played["addresses"][name] = address
        return address % 256 == 0

    def IExecutionContext__infer_shapes(self, context: Any) -> list[str]:
        tensors = context._played["of"]._played["tensors"]
        return [name for name, form in tensors.items() if form[0] == "INPUT" and name not in context._played["shapes"]]

    def IExecutionContext__execute_async_v3(self, context: Any, stream: int) -> bool:
        """Take shapes and addresses as they are now; compute when the stream gets there."""
        if self.cuda.refuse_capture and self.cuda._captured is not None:
            return False
        engine, profile = context._played["of"]._played, context._played["profile"]
        scratch = context._played["scratch"]
        assert scratch is not None
        assert scratch[1] >= SCRATCH_BYTES * (profile + 1), "too little scratch memory for the profile"
        shapes, addresses = dict(context._played["shapes"]), dict(context._played["addresses"])
        batch = shapes["input_ids"][0]
        places = {}
        for name, (mode, kind, form) in engine["tensors"].items():
            if mode == "OUTPUT":
                past = shapes.get(name.replace("present.", "past."))
                shapes[name] = past if past is not None else (batch, 1, *form[2:])
            size = int(np.prod(shapes[name])) * np.dtype(TYPES[kind]).itemsize
            places[name] = (mode, TYPES[kind], shapes[name], self.cuda.at(addresses[name], size))

        def compute() -> None:
            self.executions += 1
            binding = engine["session"].io_binding()
            for name, (mode, dtype, shape, address) in places.items():
                bind = binding.bind_input if mode == "INPUT" else binding.bind_output
                bind(name, "cpu", 0, dtype, shape, address)
            engine["session"].run_with_iobinding(binding)
            ctypes.memset(scratch[0], 0xFF, scratch[1])  # other contexts' scratch is not to be relied on

        self.cuda.submit(compute)
        return True
