"""Ways through loading, running and conformance probes that together use everything that they know of TensorRT.

Plans are built once and kept; runs compute nothing, since hundreds of mutated copies go this way.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.backends.tensorrt import builder as real_builder
from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.errors import TrtbenchError
from trtbench_lab.specs import BuildConfig

from ..models import Described
from .build_case import LIMITS
from .host_cuda import HostCuda
from .recorder import Recorder
from .running import bound
from .scenarios import Stage
from .signatures import core
from .simulated_runtime import add_runtime_behaviours
from .simulation import MAGIC, add_behaviours

_PLACE = tempfile.TemporaryDirectory(prefix="tensorrt-scenarios-")  # removed when the tests end
_built: dict[str, tuple[Path, Described]] = {}


def engine_of(stage: Stage, **options: Any) -> tuple[Path, Described]:
    """Return an engine folder with these options; it is built by the backend as it is, not by a mutated copy."""
    key = repr(sorted(options.items()))
    if key not in _built:
        recorder = Recorder()
        add_behaviours(recorder)
        folder = Path(_PLACE.name) / str(len(_built))
        folder.mkdir()
        config = open_checkpoint(stage.checkpoint).config
        earlier = sys.modules["tensorrt"]
        sys.modules["tensorrt"] = recorder.module
        verify, real_builder.TensorRTBuilder._verify = real_builder.TensorRTBuilder._verify, lambda *_: None
        try:
            builder = real_builder.builder()
            resolved = builder.resolve(config, BuildConfig(**{**LIMITS, **options})).build_config
            builder.build(stage.checkpoint, 0, resolved, folder, QuietReporter())
        finally:
            sys.modules["tensorrt"] = earlier
            real_builder.TensorRTBuilder._verify = verify
        _built[key] = folder, Described(config, resolved)
    return _built[key]


def loaded(stage: Stage, *, cuda: HostCuda | None = None, load: dict[str, Any] | None = None, **options: Any) -> Any:
    """Load an engine with the stage's backend, over runs that compute nothing."""
    folder, described = engine_of(stage, **options)
    cuda = cuda or HostCuda()
    add_runtime_behaviours(stage.recorder, cuda, computes=False)
    return stage.module("loading").load_executor(folder, 0, described, cuda=cuda, **(load or {}))


def steps(executor: Any) -> None:
    """Run a prompt and captured decode steps."""
    for length in (4, 1):
        bound(executor, length=length, capacity=16)
        for _ in range(3):
            executor.run()
    executor.synchronize()


def _empty(stage: Stage) -> Path:
    stage.folder.mkdir(parents=True, exist_ok=True)
    return stage.folder


def running(stage: Stage) -> None:
    executor = loaded(stage)
    steps(executor)
    assert executor.num_graphs == 1
    executor.close()


def streaming_weights(stage: Stage) -> None:
    executor = loaded(stage, weight_streaming=True, load={"weight_streaming_budget": 0})
    steps(executor)
    assert executor.num_graphs == 0
    stage.module("weight_streaming").set_budget(executor, "auto")
    steps(executor)


def refitting(stage: Stage) -> None:
    executor = loaded(stage, strip_plan=True, visualize=True)
    steps(executor)
    folder, _ = engine_of(stage, strip_plan=True, visualize=True)
    trt = stage.module("bindings_check").tensorrt()
    logger = stage.module("logger").make_logger(trt, lambda level, text: None)
    refitting_module, errors = stage.module("refitting"), stage.module("error_recorder").ErrorLog()
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine((folder / "rank0.engine").read_bytes())
    refit = refitting_module.Refit(trt, engine, logger, errors, "rank0.engine")
    proto = onnx.load(folder / "network.onnx")
    tensors = [(one.name, torch.from_numpy(onnx.numpy_helper.to_array(one).copy())) for one in proto.graph.initializer]
    refit.from_tensors(proto.SerializeToString(), tensors)


def refitting_a_folder(stage: Stage) -> None:
    folder, described = engine_of(stage, refit=True)
    add_runtime_behaviours(stage.recorder, HostCuda(), computes=False)
    module = stage.module("refit_build")
    plans = module.RefittedPlans(folder, stage.checkpoint, 0, described.build_config, QuietReporter())
    plans.write(_empty(stage))
    stage.recorder.behaviours["ICudaEngine.serialize_with_config"] = lambda engine, arg0: None
    with stage.refused(TrtbenchError, "could not serialize"):
        plans.write(_empty(stage))


def refused_refit(stage: Stage) -> None:
    fault = stage.recorder.new("ParserError", desc="wrong size", node_name="")
    behaviours = stage.recorder.behaviours
    with stage.refused(TrtbenchError, "could not read the weights from the network: wrong size"):
        cuda = HostCuda()
        folder, described = engine_of(stage, strip_plan=True, visualize=True)
        add_runtime_behaviours(stage.recorder, cuda, computes=False)
        behaviours["OnnxParserRefitter.refit_from_file"] = lambda parser, model: False
        behaviours["OnnxParserRefitter.num_errors"] = lambda parser: 1
        behaviours["OnnxParserRefitter.get_error"] = lambda parser, index: fault
        behaviours["ParserError.desc"] = lambda error: "wrong size"
        stage.module("loading").load_executor(folder, 0, described, cuda=cuda)


def profiling(stage: Stage) -> None:
    executor = loaded(stage)
    bound(executor, capacity=16)
    assert stage.module("layer_profile").profile_layers(executor, runs=2, warmup=1).layers
    inspection = stage.module("inspection")
    assert inspection.save_inspection(executor, _empty(stage))
    assert inspection.layer_information(executor.plans()[0].engine, 0)


def debugging(stage: Stage) -> None:
    executor = loaded(stage, enable_debug_output=True)
    bound(executor, capacity=16)
    assert stage.module("debug_tensors").debug_run(executor)
    name = executor.layout.debug_tensors[0]
    found: dict[str, Any] = {}
    trt = stage.module("bindings_check").tensorrt()
    listener = stage.module("debug_tensors").debug_listener(trt, executor.cuda, found, [])
    content, types = np.ones(3, np.float32), core()
    listener.process_debug_tensor(
        content.ctypes.data, types.TensorLocation.HOST, types.DataType.FLOAT, types.Dims((3,)), name, 7001
    )
    assert found[name].tolist() == [1, 1, 1]


def streaming_plan(stage: Stage) -> None:
    folder, _ = engine_of(stage)
    add_runtime_behaviours(stage.recorder, HostCuda(), computes=False)
    module, trt = stage.module("plan_file"), stage.module("bindings_check").tensorrt()
    source = module.PlanSource(folder / "rank0.engine")
    with stage.refused(TrtbenchError, "libcuda|cuda driver"):  # the real base class opens the driver
        module.stream_reader(trt, source)
    logger = stage.module("logger").make_logger(trt, lambda level, text: None)
    source.close()
    stage.monkeypatch.setattr(module, "stream_reader", reader_without_cuda)
    assert module.deserialized(trt, trt.Runtime(logger), folder / "rank0.engine", reader="stream") is not None


def reader_without_cuda(trt: Any, source: Any) -> Any:
    """Return a reader of the real kind whose constructor, which wants a driver, was never called."""

    class Reader(core().IStreamReaderV2):
        def read(self, num_bytes: int, stream: int) -> bytes:
            return source.read(num_bytes)

        def seek(self, offset: int, where: Any) -> bool:
            return source.seek(offset, int(where))

    return Reader.__new__(Reader)


def reporting_errors(stage: Stage) -> None:
    module, trt = stage.module("error_recorder"), stage.module("bindings_check").tensorrt()
    log = module.ErrorLog()
    recorder = module.error_recorder(trt, log)
    codes = core().ErrorCodeTRT
    assert recorder.report_error(codes.FAILED_ALLOCATION, "out of memory")
    assert not recorder.report_error(codes.SUCCESS, "fine")
    assert (recorder.num_errors(), recorder.get_error_desc(0)) == (2, "out of memory")
    assert recorder.get_error_code(0) == codes.FAILED_ALLOCATION
    assert not recorder.has_overflowed()
    recorder.clear()


def several_ranks(stage: Stage) -> None:
    executor = loaded(stage)
    group = stage.module("communicator").NcclGroup(4096, 0, 2)
    made = stage.module("contexts").Contexts(
        executor.plans(), executor.cuda, executor._stream, executor._errors, executor._held.recorder, group.capsule()
    )
    made.allocate(1 << 16)
    assert made.get(0, 1, ())


# ---- the probes of single operators -----------------------------------------------------------------------------


def operator_plan(inputs: dict[str, tuple[str, tuple[int, ...]]], output: str, shape: tuple[int, ...]) -> bytes:
    """Return a plan with these inputs; its output is zeros."""
    values = [
        helper.make_tensor_value_info(name, getattr(TensorProto, kind), dims) for name, (kind, dims) in inputs.items()
    ]
    kind = next(iter(inputs.values()))[0]
    made = helper.make_tensor_value_info(output, getattr(TensorProto, kind), shape)
    graph = helper.make_graph([helper.make_node("Identity", [next(iter(inputs))], [output])], "g", values, [made])
    header = {"profiles": [{}], "flags": []}
    return MAGIC + json.dumps(header).encode() + b"\n" + helper.make_model(graph).SerializeToString()


def operators(stage: Stage, plan: bytes, probe: Callable[[Any, Path], Any]) -> None:
    """Run one probe of `probes.operators` over a plan that stands for what it builds."""
    cuda = HostCuda()
    add_runtime_behaviours(stage.recorder, cuda, computes=False)
    stage.recorder.behaviours["Builder.build_serialized_network"] = lambda builder, network, config: (
        stage.recorder.host_memory(plan)
    )
    stage.recorder.behaviours["IExecutionContext.get_tensor_shape"] = lambda context, name: core().Dims(
        _shape_of(context._state["owner"], name)
    )
    stage.recorder.behaviours["IExecutionContext.infer_shapes"] = lambda context: []
    for kind in ("ILayer", "IAttention"):
        stage.recorder.behaviours[f"{kind}.get_output"] = lambda layer, index: stage.recorder.new("ITensor")
    module = stage.module("conformance.probes.operators")
    stage.monkeypatch.setattr(stage.module("conformance.probes.single"), "cuda_device", lambda name: cuda)
    probe(module, _empty(stage))


def _shape_of(engine: Any, name: str) -> tuple[int, ...]:
    (value,) = (one for one in engine._state["model"].graph.output if one.name == name)
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def probing_lengths(stage: Stage, dtype: str = "bfloat16") -> None:
    kind = dtype.upper()
    cache = (kind, (2, 2, 64, 64))
    inputs = {"query": (kind, (2, 8, 1, 64)), "key": cache, "value": cache, "lengths": ("INT32", (2,))}
    plan = operator_plan(inputs, "context", (2, 8, 1, 64))
    operators(stage, plan, lambda m, f: m.try_key_value_lengths(f, dtype=dtype, head_size=64))


def probing_lengths_in_float16(stage: Stage) -> None:
    probing_lengths(stage, "float16")


def probing_fp8(stage: Stage) -> None:
    plan = operator_plan({"x": ("FLOAT16", (16, 128))}, "y", (16, 64))
    operators(stage, plan, lambda m, f: m.try_fp8_matmul(f))


def probing_int8(stage: Stage) -> None:
    plan = operator_plan({"x": ("FLOAT16", (16, 128))}, "y", (16, 64))
    operators(stage, plan, lambda m, f: m.try_int8_matmul(f))


def probing_timings(stage: Stage) -> None:
    plan = operator_plan({"x": ("FLOAT16", (64, 256))}, "y", (64, 256))
    operators(stage, plan, lambda m, f: m.try_timing_cache(f))


def probing_collectives(stage: Stage) -> None:
    plan = operator_plan({"x": ("FLOAT", (8, 32))}, "sum", (8, 32))

    def probe(module: Any, folder: Path) -> None:
        group = stage.module("communicator").NcclGroup(4096, 0, 2)
        stage.module("conformance.probes.collective").run_rank(folder, 0, group=group)

    operators(stage, plan, probe)


RUNNING: dict[str, Callable[[Stage], None]] = {
    scenario.__name__: scenario
    for scenario in (
        running,
        reporting_errors,
        profiling,
        several_ranks,
        debugging,
        streaming_plan,
        streaming_weights,
        refused_refit,
        refitting,
        refitting_a_folder,
        probing_lengths,
        probing_lengths_in_float16,
        probing_fp8,
        probing_int8,
        probing_timings,
        probing_collectives,
    )
}
