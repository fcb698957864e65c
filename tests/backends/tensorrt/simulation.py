"""Behaviours of a TensorRT that works, as far as a host can tell: it parses, builds and describes.

A plan is the network itself with what the builder was told, so that engine stand-ins can describe their tensors,
profiles and aliases, and a test may run the very plan with ONNX Runtime. Times and memory sizes are invented, and never
leave the tests.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

import onnx
from onnx import TensorProto

from trtbench_lab.network.onnx_lint import lint_onnx

from .recorder import Recorder
from .signatures import core

MAGIC = b"simulated plan\n"
_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT64: "INT64",
    TensorProto.INT32: "INT32",
    TensorProto.INT8: "INT8",
    TensorProto.BOOL: "BOOL",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT4: "INT4",
}
ALIASING = ("TRT_KVCacheUpdate", "TensorScatter")


def add_behaviours(recorder: Recorder) -> None:
    """Set the behaviours of the builder's side and of engine descriptions."""
    side = _BuilderSide(recorder)
    for name in dir(side):
        if "__" in name and not name.startswith("_"):
            kind, _, method = name.partition("__")
            recorder.behaviours[f"{kind}.{method}" if method != "init" else kind] = getattr(side, name)
    recorder.behaviours["get_plugin_registry"] = lambda: recorder.new("IPluginRegistry")


def plan_parts(plan: bytes) -> tuple[dict[str, Any], onnx.ModelProto]:
    """Return what a simulated plan was built with, and its network with all weights inside."""
    if not bytes(plan).startswith(MAGIC):
        raise ValueError("not a simulated plan")
    header, _, model = bytes(plan)[len(MAGIC) :].partition(b"\n")
    return json.loads(header), onnx.ModelProto.FromString(model)


def data_type(onnx_type: int) -> Any:
    """Return TensorRT's name of an ONNX element type."""
    return getattr(core().DataType, _TYPES[onnx_type])


def aliases_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return output → input of every cache that is updated in place, by TensorRT's layer or by a plugin of ours."""
    from trtbench_lab.plugins.registry import plugins_by_op_type

    found = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in ALIASING}
    for node in model.graph.node:
        if (plugin := plugins_by_op_type().get(node.op_type)) is not None:
            for output, source in zip(node.output, plugin.aliased_inputs, strict=True):
                if source is not None:
                    found[output] = node.input[source]
    return found


class _BuilderSide:
    """Methods are named ``Class__method``; each gets the handle, then the call's arguments by name."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder

    # ---- builder and network -------------------------------------------------------------------------------------

    def Builder__create_network(self, builder: Any, flags: int = 0) -> Any:
        return self.recorder.new("INetworkDefinition", flags=flags, inputs=[], outputs=[], layers=[])

    def Builder__create_builder_config(self, builder: Any) -> Any:
        return self.recorder.new("IBuilderConfig", profiles=[], flags=set(), timing_cache=None, limits={})

    def Builder__create_optimization_profile(self, builder: Any) -> Any:
        return self.recorder.new("IOptimizationProfile", shapes={})

    def INetworkDefinition__num_inputs(self, network: Any) -> int:
        return len(network._state["inputs"])

    def INetworkDefinition__num_outputs(self, network: Any) -> int:
        return len(network._state["outputs"])

    def INetworkDefinition__num_layers(self, network: Any) -> int:
        return len(network._state["layers"])

    def INetworkDefinition__get_input(self, network: Any, index: int) -> Any:
        return network._state["inputs"][index]

    def INetworkDefinition__get_output(self, network: Any, index: int) -> Any:
        return network._state["outputs"][index]

    def INetworkDefinition__get_layer(self, network: Any, index: int) -> Any:
        return network._state["layers"][index]

    def ITensor__name(self, tensor: Any) -> str:
        return str(tensor._state["name"])

    def ITensor__shape(self, tensor: Any) -> Any:
        return core().Dims(tensor._state["shape"])

    def ITensor__dtype(self, tensor: Any) -> Any:
        return tensor._state["dtype"]

    def ILayer__name(self, layer: Any) -> str:
        return str(layer._state["name"])

    def ILayer__num_outputs(self, layer: Any) -> int:
        return len(layer._state["outputs"])

    def ILayer__get_output(self, layer: Any, index: int) -> Any:
        return layer._state["outputs"][index]

    # ---- configuration -------------------------------------------------------------------------------------------

    def IOptimizationProfile__set_shape(self, profile: Any, input: str, min: Any, opt: Any, max: Any) -> None:
        for low, best, high in zip(min, opt, max, strict=True):
            if not 0 <= low <= best <= high:
                raise ValueError(f"set_shape: {input} has {tuple(min)}, {tuple(opt)}, {tuple(max)}")
        profile._state["shapes"][input] = [list(min), list(opt), list(max)]

    def IBuilderConfig__add_optimization_profile(self, config: Any, profile: Any) -> int:
        config._state["profiles"].append(profile)
        return len(config._state["profiles"]) - 1

    def IBuilderConfig__num_optimization_profiles(self, config: Any) -> int:
        return len(config._state["profiles"])

    def IBuilderConfig__set_flag(self, config: Any, flag: Any) -> None:
        config._state["flags"].add(flag.name)

    def IBuilderConfig__clear_flag(self, config: Any, flag: Any) -> None:
        config._state["flags"].discard(flag.name)

    def IBuilderConfig__get_flag(self, config: Any, flag: Any) -> bool:
        return flag.name in config._state["flags"]

    def IBuilderConfig__set_memory_pool_limit(self, config: Any, pool: Any, pool_size: int) -> None:
        config._state["limits"][pool.name] = pool_size

    def IBuilderConfig__create_timing_cache(self, config: Any, serialized_timing_cache: Any) -> Any:
        return self.recorder.new("ITimingCache", content=bytes(serialized_timing_cache))

    def IBuilderConfig__set_timing_cache(self, config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        config._state["timing_cache"] = cache
        return True

    def IBuilderConfig__get_timing_cache(self, config: Any) -> Any:
        return config._state["timing_cache"]

    def ITimingCache__combine(self, cache: Any, input_cache: Any, ignore_mismatch: bool) -> bool:
        cache._state["content"] += b"+" + input_cache._state["content"]
        return True

    def ITimingCache__serialize(self, cache: Any) -> Any:
        return self.recorder.host_memory(cache._state["content"] or b"timings")

    # ---- parser --------------------------------------------------------------------------------------------------

    def OnnxParser__init(self, parser: Any, network: Any, logger: Any) -> None:
        parser._state.update(network=network, logger=logger, model=None, loaded={}, errors=[])

    def OnnxParser__load_model_proto(self, parser: Any, model: Any, path: str | None = None) -> bool:
        parser._state["model"] = onnx.ModelProto.FromString(bytes(model))
        return True

    def OnnxParser__load_initializer(self, parser: Any, name: str, data: int, size: int) -> bool:
        initializers = {one.name: one for one in parser._state["model"].graph.initializer}
        if name not in initializers or not data:
            return False
        bits = _bits(initializers[name].data_type)
        elements = 1
        for extent in initializers[name].dims:
            elements *= extent
        if size != -(-elements * bits // 8):
            return False
        parser._state["loaded"][name] = (data, size)
        return True

    def OnnxParser__parse_model_proto(self, parser: Any) -> bool:
        model, loaded = parser._state["model"], parser._state["loaded"]
        findings = lint_onnx(model)
        missing = [
            one.name
            for one in model.graph.initializer
            if one.name not in loaded and one.data_location == TensorProto.EXTERNAL
        ]
        for finding in findings:
            self._error(parser, model, finding.where.split(" ")[0], finding.message)
        for name in missing:
            self._error(parser, model, name, f"Failed to find the weights of {name}")
        if parser._state["errors"]:
            return False
        network = parser._state["network"]
        network._state["model"], network._state["loaded"] = model, loaded
        initializers = {one.name for one in model.graph.initializer}
        network._state["inputs"] = [self._tensor(one) for one in model.graph.input if one.name not in initializers]
        network._state["outputs"] = [self._tensor(one) for one in model.graph.output]
        for node in model.graph.node:
            outputs = [self.recorder.new("ITensor", name=name, shape=(), dtype=None) for name in node.output]
            network._state["layers"].append(self.recorder.new("ILayer", name=node.name, outputs=outputs))
        return True

    def OnnxParser__get_layer_output_tensor(self, parser: Any, name: str, i: int) -> Any:
        node = next((node for node in parser._state["model"].graph.node if node.name == name), None)
        return None if node is None else self.recorder.new("ITensor", name=node.output[i], shape=(), dtype=None)

    def INetworkDefinition__mark_debug(self, network: Any, tensor: Any) -> bool:
        named = tensor._values.get("name", tensor._state["name"])
        network._state.setdefault("debug", []).append([named, tensor._state["name"]])
        return True

    def OnnxParser__num_errors(self, parser: Any) -> int:
        return len(parser._state["errors"])

    def OnnxParser__get_error(self, parser: Any, index: int) -> Any:
        return parser._state["errors"][index]

    def ParserError__desc(self, error: Any) -> str:
        return str(error._state["desc"])

    def ParserError__node_name(self, error: Any) -> str:
        return str(error._state["node_name"])

    def ParserError__node_operator(self, error: Any) -> str:
        return str(error._state["node_operator"])

    def ParserError__code(self, error: Any) -> Any:
        return core().ErrorCode.UNSUPPORTED_NODE

    def _error(self, parser: Any, model: onnx.ModelProto, node_name: str, desc: str) -> None:
        operator = next((node.op_type for node in model.graph.node if node.name == node_name), "")
        made = self.recorder.new("ParserError", desc=desc, node_name=node_name, node_operator=operator)
        parser._state["errors"].append(made)

    def _tensor(self, value: onnx.ValueInfoProto) -> Any:
        dims = value.type.tensor_type.shape.dim
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
        dtype = data_type(value.type.tensor_type.elem_type)
        return self.recorder.new("ITensor", name=value.name, shape=shape, dtype=dtype, value=value)

    # ---- the build -----------------------------------------------------------------------------------------------

    def Builder__build_serialized_network(self, builder: Any, network: Any, config: Any) -> Any:
        problem = _profile_problem(network, config)
        logger = next(call.arguments["logger"] for call in self.recorder.named("Builder") if call.handle is builder)
        if problem is not None:
            logger.log(core().ILogger.Severity.ERROR, problem)
            return None
        monitor = config._values.get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 3)
            for step in range(3):
                if not monitor.step_complete("Building Engine", step):
                    monitor.phase_finish("Building Engine")
                    logger.log(core().ILogger.Severity.ERROR, "Build cancelled by the progress monitor.")
                    return None
            monitor.phase_finish("Building Engine")
        return self.recorder.host_memory(_plan(network, config))


def _plan(network: Any, config: Any) -> bytes:
    header = {
        "profiles": [profile._state["shapes"] for profile in config._state["profiles"]],
        "flags": sorted(config._state["flags"]),
        "settings": {name: str(value) for name, value in config._values.items() if isinstance(value, int | str)},
        "debug": network._state.get("debug", []),
    }
    model = onnx.ModelProto()
    model.CopyFrom(network._state["model"])
    if "STRIP_PLAN" not in header["flags"]:
        for initializer in model.graph.initializer:
            if initializer.name in network._state["loaded"]:
                pointer, size = network._state["loaded"][initializer.name]
                initializer.ClearField("external_data")
                initializer.data_location = TensorProto.DEFAULT
                initializer.raw_data = ctypes.string_at(pointer, size)
    return MAGIC + json.dumps(header).encode() + b"\n" + model.SerializeToString()


def _profile_problem(network: Any, config: Any) -> str | None:
    """Every dynamic input needs an entry in every profile, and fixed sizes stay what they are."""
    if not config._state["profiles"]:
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for profile in config._state["profiles"]:
        for tensor in network._state["inputs"]:
            name, shape = tensor._state["name"], tensor._state["shape"]
            given = profile._state["shapes"].get(name)
            if given is None:
                if -1 in shape:
                    return f"{name}: dynamic dimension without an entry in an optimization profile"
                continue
            for sizes in given:
                if len(sizes) != len(shape):
                    return f"{name}: {len(sizes)} sizes for {len(shape)} dimensions"
                if any(size not in (-1, chosen) for size, chosen in zip(shape, sizes, strict=True)):
                    return f"{name}: {sizes} against the fixed sizes of {shape}"
    return None


def _bits(onnx_type: int) -> int:
    if onnx_type in (TensorProto.INT4, TensorProto.UINT4):
        return 4
    return int(onnx.helper.tensor_dtype_to_np_dtype(onnx_type).itemsize) * 8
