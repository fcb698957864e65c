"""Behaviours of a TensorRT that runs: plans load, contexts keep the order that the API asks for, ONNX Runtime computes.

Tensors lie in host memory at the addresses that the executor gives. Whatever order or value the real library would
answer with an API error is a violation of the recorder, so that no test can pass by it.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from .host_cuda import HostCuda
from .recorder import Recorder
from .signatures import core
from .simulation import MAGIC, aliases_of, data_type, plan_parts

_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "INT8": np.int8, "BOOL": bool}
ACTIVATION_BYTES = 4096


def add_runtime_behaviours(recorder: Recorder, cuda: HostCuda, *, computes: bool = True) -> None:
    """Set the behaviours of everything after the build; graphs are captured through `cuda`.

    Without `computes` a run leaves every tensor as it is, and debug tensors are zeros.
    """
    side = RuntimeSide(recorder, cuda) if computes else _Idle(recorder, cuda)
    for name in dir(side):
        if "__" in name and not name.startswith("_"):
            kind, _, method = name.partition("__")
            method = method.replace("set__", "") + "=" if method.startswith("set__") else method
            recorder.behaviours[f"{kind}.{method}" if method != "init" else kind] = getattr(side, name)


def tensor_at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return host memory as a tensor, without a copy."""
    content = (ctypes.c_char * (prod(shape) * dtype.itemsize)).from_address(address)
    return torch.frombuffer(content, dtype=dtype).reshape(shape)


class RuntimeSide:
    """Methods are named ``Class__method`` or ``Class__set__property``; see `simulation`."""

    def __init__(self, recorder: Recorder, cuda: HostCuda):
        self.recorder, self.cuda = recorder, cuda
        self.sessions: dict[int, Any] = {}

    # ---- runtime and engine --------------------------------------------------------------------------------------

    def Runtime__deserialize_cuda_engine(
        self, runtime: Any, serialized_engine: Any = None, stream_reader_v2: Any = None
    ) -> Any:
        plan = bytes(serialized_engine) if serialized_engine is not None else self._streamed(stream_reader_v2)
        try:
            header, model = plan_parts(plan)
        except ValueError:
            recorder = runtime._values.get("error_recorder")
            if recorder is not None:
                recorder.report_error(core().ErrorCodeTRT.INVALID_CONFIG, "Serialization assertion failed: no plan")
            return None
        stripped = "STRIP_PLAN" in header["flags"]
        missing = {one.name for one in model.graph.initializer if not one.raw_data} if stripped else set()
        return self.recorder.new("ICudaEngine", header=header, model=model, missing=missing, contexts=0, budget=None)

    def ICudaEngine__num_io_tensors(self, engine: Any) -> int:
        return len(_values(engine))

    def ICudaEngine__get_tensor_name(self, engine: Any, index: int) -> str:
        return list(_values(engine))[index]

    def ICudaEngine__get_tensor_mode(self, engine: Any, name: str) -> Any:
        modes = core().TensorIOMode
        return modes.OUTPUT if name in {one.name for one in _model(engine).graph.output} else modes.INPUT

    def ICudaEngine__get_tensor_dtype(self, engine: Any, name: str) -> Any:
        return data_type(_values(engine)[name].type.tensor_type.elem_type)

    def ICudaEngine__get_tensor_shape(self, engine: Any, name: str) -> Any:
        return core().Dims(_dims(_values(engine)[name]))

    def ICudaEngine__get_tensor_location(self, engine: Any, name: str) -> Any:
        return core().TensorLocation.DEVICE

    def ICudaEngine__get_aliased_input_tensor(self, engine: Any, name: str) -> str | None:
        return aliases_of(_model(engine)).get(name)

    def ICudaEngine__num_optimization_profiles(self, engine: Any) -> int:
        return len(engine._state["header"]["profiles"])

    def ICudaEngine__get_tensor_profile_shape(self, engine: Any, name: str, profile_index: int) -> Any:
        return [core().Dims(shape) for shape in _profile_shapes(engine, name, profile_index)]

    def ICudaEngine__get_device_memory_size_for_profile_v2(self, engine: Any, profile_index: int) -> int:
        return ACTIVATION_BYTES * (1 + profile_index)

    def ICudaEngine__get_engine_stat(self, engine: Any, stat: Any = None) -> int:
        return sum(len(one.raw_data) for one in _model(engine).graph.initializer)

    def ICudaEngine__num_layers(self, engine: Any) -> int:
        return len(_model(engine).graph.node)

    def ICudaEngine__refittable(self, engine: Any) -> bool:
        return bool({"STRIP_PLAN", "REFIT", "REFIT_IDENTICAL"} & set(engine._state["header"]["flags"]))

    def ICudaEngine__is_debug_tensor(self, engine: Any, name: str) -> bool:
        return name in dict(engine._state["header"].get("debug", []))

    def ICudaEngine__streamable_weights_size(self, engine: Any) -> int:
        return self.ICudaEngine__get_engine_stat(engine) if self._streams(engine) else 0

    def ICudaEngine__get_weight_streaming_automatic_budget(self, engine: Any) -> int:
        return self.ICudaEngine__streamable_weights_size(engine) // 2

    def ICudaEngine__weight_streaming_scratch_memory_size(self, engine: Any) -> int:
        return 1024

    def ICudaEngine__set__weight_streaming_budget_v2(self, engine: Any, value: int) -> None:
        if not self._streams(engine):
            raise self.recorder.fault("a weight-streaming budget for an engine that was not built for it")

    def ICudaEngine__weight_streaming_budget_v2(self, engine: Any) -> int:
        return self.ICudaEngine__streamable_weights_size(engine)

    def ICudaEngine__create_execution_context(
        self, engine: Any, strategy: Any = None, runtime_config: Any = None
    ) -> Any:
        if engine._state["missing"]:
            raise self.recorder.fault("a context for an engine without its weights")
        return self.recorder.new(
            "IExecutionContext", owner=engine, strategy=strategy, memory=None, profile=0, shapes={}, addresses={}
        )

    # ---- execution -----------------------------------------------------------------------------------------------

    def IExecutionContext__engine(self, context: Any) -> Any:
        return context._state["owner"]

    def IExecutionContext__set_device_memory(self, context: Any, memory: int, size: int) -> None:
        if memory % 256:
            raise self.recorder.fault("device memory is aligned to 256 bytes")
        if context._state["strategy"] != core().ExecutionContextAllocationStrategy.USER_MANAGED:
            raise self.recorder.fault("memory for a context that has its own")
        context._state["memory"] = (memory, size)

    def IExecutionContext__set_optimization_profile_async(
        self, context: Any, profile_index: int, stream_handle: int
    ) -> bool:
        if stream_handle == 0:
            raise self.recorder.fault("a profile is switched on the default stream")
        context._state.update(profile=profile_index, shapes={})
        return 0 <= profile_index < self.ICudaEngine__num_optimization_profiles(context._state["owner"])

    def IExecutionContext__set_input_shape(self, context: Any, name: str, shape: Any) -> bool:
        low, _, high = _profile_shapes(context._state["owner"], name, context._state["profile"])
        fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            context._state["shapes"][name] = tuple(shape)
        return fits

    def IExecutionContext__set_tensor_address(self, context: Any, name: str, memory: int) -> bool:
        if name not in _values(context._state["owner"]) or not memory:
            return False
        context._state["addresses"][name] = memory
        return True

    def IExecutionContext__infer_shapes(self, context: Any) -> list[str]:
        model = _model(context._state["owner"])
        return [one.name for one in _inputs(model) if one.name not in context._state["shapes"] and -1 in _dims(one)]

    def IExecutionContext__execute_async_v3(self, context: Any, stream_handle: int) -> bool:
        self._check_order(context, stream_handle)
        shapes, addresses = dict(context._state["shapes"]), dict(context._state["addresses"])
        work: Callable[[], None] = lambda: self._compute(context, shapes, addresses)  # noqa: E731
        if self.cuda.capturing is not None:
            if context._state.get("runs", 0) == 0:
                raise self.recorder.fault("a first run after a change of shapes is captured")
            self.cuda.capturing.append(work)
        else:
            work()
            context._state["runs"] = context._state.get("runs", 0) + 1
            if context._values.get("enqueue_emits_profile", True) and "profiler" in context._values:
                self._report(context)
        return True

    def IExecutionContext__report_to_profiler(self, context: Any) -> bool:
        self._report(context)
        return True

    def IExecutionContext__set_debug_listener(self, context: Any, listener: Any) -> bool:
        context._state["listener"] = listener
        return True

    def IExecutionContext__set_tensor_debug_state(self, context: Any, name: str, flag: bool) -> bool:
        context._state.setdefault("watched", {})[name] = flag
        return self.ICudaEngine__is_debug_tensor(context._state["owner"], name)

    def _check_order(self, context: Any, stream: int) -> None:
        engine, state = context._state["owner"], context._state
        if stream == 0:
            raise self.recorder.fault("a run on the default stream")
        if state["strategy"] == core().ExecutionContextAllocationStrategy.USER_MANAGED:
            needed = self.ICudaEngine__get_device_memory_size_for_profile_v2(engine, state["profile"])
            if state["memory"] is None or state["memory"][1] < needed:
                raise self.recorder.fault("a run without the activation memory that its profile needs")
        if missing := self.IExecutionContext__infer_shapes(context):
            raise self.recorder.fault(f"a run before the shape of {missing[0]} is set")
        if unset := [name for name in _values(engine) if name not in state["addresses"]]:
            raise self.recorder.fault(f"a run before the address of {unset[0]} is set")
        for output, source in aliases_of(_model(engine)).items():
            if state["addresses"][output] != state["addresses"][source]:
                raise self.recorder.fault(f"{output} does not have the address of {source}, which it aliases")

    def _compute(self, context: Any, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
        engine = context._state["owner"]
        model = _model(engine)
        feeds = {}
        for one in _inputs(model):
            kind = _NUMPY[data_type(one.type.tensor_type.elem_type).name]
            feeds[one.name] = _array(addresses[one.name], shapes.get(one.name, _dims(one)), kind).copy()
        inner = dict(engine._state["header"].get("debug", []))
        watched = {name: inner[name] for name, on in context._state.get("watched", {}).items() if on}
        names = [one.name for one in model.graph.output]
        results = self._session(engine, list(watched.values())).run([*names, *watched.values()], feeds)
        for name, result in zip(names, results, strict=False):
            _array(addresses[name], result.shape, result.dtype)[...] = result
        for name, result in zip(watched, results[len(names) :], strict=True):
            kept = np.ascontiguousarray(result)
            kind = data_type(onnx.helper.np_dtype_to_tensor_dtype(kept.dtype))
            location, shape = core().TensorLocation.DEVICE, core().Dims(kept.shape)
            address = _capsule(kept.ctypes.data)  # the bindings pass void* as a capsule
            context._state["listener"].process_debug_tensor(address, location, kind, shape, name, 7001)

    def _session(self, engine: Any, extra: list[str]) -> Any:
        import onnxruntime

        key = id(engine), tuple(extra)
        if key not in self.sessions:
            model = onnx.ModelProto()
            model.CopyFrom(_model(engine))
            for name in extra:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
            options = onnxruntime.SessionOptions()  # optimizations would quantize the inputs of 8-bit layers
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads = 1
            self.sessions[key] = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        return self.sessions[key]

    def _report(self, context: Any) -> None:
        for number, node in enumerate(_model(context._state["owner"]).graph.node):
            context._values["profiler"].report_layer_time(node.name or f"layer {number}", 0.001 * (number + 1))

    def _streams(self, engine: Any) -> bool:
        return "WEIGHT_STREAMING" in engine._state["header"]["flags"]

    def _streamed(self, reader: Any) -> bytes:
        where = core().SeekPosition
        assert reader.seek(0, where.END)
        assert reader.seek(0, where.SET)
        parts = []
        while part := reader.read(1 << 16, 7001):
            parts.append(part)
        return b"".join(parts)

    # ---- inspector and refit -------------------------------------------------------------------------------------

    def ICudaEngine__create_engine_inspector(self, engine: Any) -> Any:
        return self.recorder.new("EngineInspector", owner=engine)

    def EngineInspector__get_engine_information(self, inspector: Any, format: Any) -> str:
        model = _model(inspector._state["owner"])
        layers = [
            {"Name": node.name, "LayerType": node.op_type, "Metadata": f"[ONNX Layer: {node.name}]"}
            for node in model.graph.node
        ]
        tensors = [{"Name": name} for name in _values(inspector._state["owner"])]
        return json.dumps({"Layers": layers, "I/O Tensors": tensors})

    def EngineInspector__get_layer_information(self, inspector: Any, layer_index: int, format: Any) -> str:
        return json.dumps({"Name": _model(inspector._state["owner"]).graph.node[layer_index].name})

    def ICudaEngine__create_serialization_config(self, engine: Any) -> Any:
        return self.recorder.new("ISerializationConfig", flags=set())

    def ISerializationConfig__set_flag(self, config: Any, flag: Any) -> bool:
        config._state["flags"].add(flag.name)
        return True

    def ICudaEngine__serialize_with_config(self, engine: Any, arg0: Any) -> Any:
        """Write the engine as it is now; without INCLUDE_REFIT one that was refitted cannot be refitted again."""
        header = dict(engine._state["header"])
        if "INCLUDE_REFIT" not in arg0._state["flags"]:
            header["flags"] = [flag for flag in header["flags"] if "REFIT" not in flag]
        plan = MAGIC + json.dumps(header).encode() + b"\n" + _model(engine).SerializeToString()
        return self.recorder.host_memory(plan)

    def Refitter__init(self, refitter: Any, engine: Any, logger: Any) -> None:
        refitter._state.update(engine=engine, given={})

    def OnnxParserRefitter__init(self, parser: Any, refitter: Any, logger: Any) -> None:
        parser._state.update(refitter=refitter, proto=None, loaded={}, errors=[])

    def OnnxParserRefitter__refit_from_file(self, parser: Any, model: str) -> bool:
        if not os.path.exists(model):
            parser._state["errors"].append(
                self.recorder.new("ParserError", desc=f"Could not open {model}", node_name="")
            )
            return False
        parser._state["proto"] = onnx.load(model)
        return self.OnnxParserRefitter__refit_model_proto(parser)

    def OnnxParserRefitter__load_model_proto(self, parser: Any, model: Any, path: str | None = None) -> bool:
        parser._state["proto"] = onnx.ModelProto.FromString(bytes(model))
        return True

    def OnnxParserRefitter__load_initializer(self, parser: Any, name: str, data: int, size: int) -> bool:
        if name not in {one.name for one in parser._state["proto"].graph.initializer}:
            return False
        parser._state["loaded"][name] = (data, size)  # read later: the memory must outlive this call
        return True

    def OnnxParserRefitter__refit_model_proto(self, parser: Any) -> bool:
        loaded = parser._state["loaded"]
        for one in parser._state["proto"].graph.initializer:
            content = ctypes.string_at(*loaded[one.name]) if one.name in loaded else _raw(one)
            parser._state["refitter"]._state["given"][one.name] = content
        return True

    def OnnxParserRefitter__num_errors(self, parser: Any) -> int:
        return len(parser._state["errors"])

    def OnnxParserRefitter__get_error(self, parser: Any, index: int) -> Any:
        return parser._state["errors"][index]

    def Refitter__get_missing_weights(self, refitter: Any) -> list[str]:
        return sorted(refitter._state["engine"]._state["missing"] - set(refitter._state["given"]))

    def Refitter__refit_cuda_engine(self, refitter: Any) -> bool:
        engine = refitter._state["engine"]
        for one in _model(engine).graph.initializer:
            if one.name in refitter._state["given"]:
                one.ClearField("external_data")
                one.data_location = onnx.TensorProto.DEFAULT
                one.raw_data = refitter._state["given"][one.name]
        engine._state["missing"] -= set(refitter._state["given"])
        return not engine._state["missing"]


class _Idle(RuntimeSide):
    def _compute(self, context: Any, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
        for name, on in context._state.get("watched", {}).items():
            if on:
                zeros, types = np.zeros((2, 3), np.float32), core()
                location, shape = types.TensorLocation.DEVICE, types.Dims(zeros.shape)
                address = _capsule(zeros.ctypes.data)
                listener = context._state["listener"]
                listener.process_debug_tensor(address, location, types.DataType.FLOAT, shape, name, 7001)


def _model(engine: Any) -> onnx.ModelProto:
    return engine._state["model"]  # type: ignore[no-any-return]


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    initializers = {one.name for one in model.graph.initializer}
    return [one for one in model.graph.input if one.name not in initializers]


def _values(engine: Any) -> dict[str, onnx.ValueInfoProto]:
    model = _model(engine)
    return {one.name: one for one in [*_inputs(model), *model.graph.output]}


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim)


def _profile_shapes(engine: Any, name: str, index: int) -> list[tuple[int, ...]]:
    given = engine._state["header"]["profiles"][index].get(name)
    fixed = _dims(_values(engine)[name])
    return [tuple(shape) for shape in given] if given is not None else [fixed, fixed, fixed]


def _array(address: int, shape: Any, kind: Any) -> np.ndarray:
    size = prod(shape) * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype=kind).reshape(shape)


def _raw(initializer: onnx.TensorProto) -> bytes:
    return initializer.raw_data or numpy_helper.to_array(initializer).tobytes()


def _capsule(address: int) -> Any:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(address, None, None)
