"""Ways through the backend that together use everything it knows of TensorRT; coverage and mutations run over them.

A scenario gets a `Stage` and looks every module up anew, since a mutated copy may stand in its place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.errors import BuildCancelled, TrtbenchError
from trtbench_lab.network.signature import TensorSpec
from trtbench_lab.specs import BuildConfig, PluginConfig

from .build_case import LIMITS
from .recorder import Recorder
from .signatures import core

PACKAGE = "trtbench_lab.backends.tensorrt"


@dataclass
class Stage:
    """What a scenario works with: a recorder for TensorRT, a checkpoint of a tiny model, an empty folder."""

    recorder: Recorder
    monkeypatch: pytest.MonkeyPatch
    checkpoint: Path
    folder: Path

    def module(self, name: str) -> Any:
        """Return a module of the backend as it is now."""
        return importlib.import_module(f"{PACKAGE}.{name}")

    def build(self, report: Any = None, **options: Any) -> Any:
        """Build without loading the engine, and return the layout file's content."""
        from trtbench_lab.checkpoint import open_checkpoint

        builder = self.module("builder")
        self.monkeypatch.setattr(builder.TensorRTBuilder, "_verify", lambda *_: None)
        made = builder.builder()
        resolution = made.resolve(open_checkpoint(self.checkpoint).config, BuildConfig(**{**LIMITS, **options}))
        self.folder.mkdir(parents=True, exist_ok=True)
        made.build(self.checkpoint, 0, resolution.build_config, self.folder, report or QuietReporter())
        return self.module("plan_layout").read_layout(self.folder, 0)

    @contextmanager
    def refused(self, kind: type[TrtbenchError], words: str) -> Any:
        """Expect an error of ours."""
        with pytest.raises(kind, match=words):
            yield


class CancelledReporter(QuietReporter):
    """Wants the build to stop once TensorRT's own phases run."""

    def check_cancelled(self) -> None:
        if any(name.startswith("TensorRT:") for name in self.phases):
            raise BuildCancelled("The build was cancelled.")


class Model:
    """Stands for a `ReferencedNetwork` of one cache update: enough to parse, and quick for many mutants."""

    def __init__(self) -> None:
        shape = [1, 1, 4, 2]
        past = helper.make_tensor_value_info("past", TensorProto.FLOAT, ["batch", *shape[1:]])
        present = helper.make_tensor_value_info("present", TensorProto.FLOAT, ["batch", *shape[1:]])
        update = helper.make_tensor("new", TensorProto.FLOAT, shape, np.zeros(shape, np.float32).tobytes(), raw=True)
        name = "transformer.layers.0.attention/TensorScatter"
        node = helper.make_node("TensorScatter", ["past", "new"], ["present"], name=name, axis=-2)
        graph = helper.make_graph([node], "g", [past], [present], [update])
        self.proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
        self.weights = np.zeros(shape, np.float32)
        self.io = (TensorSpec("past", "input", "float32", ("batch", *shape[1:])),)

    def model_bytes(self) -> bytes:
        return self.proto.SerializeToString()

    def items(self) -> Any:
        yield "new", SimpleNamespace(address=self.weights.ctypes.data, nbytes=self.weights.nbytes)


def configuration(stage: Stage) -> None:
    trt = stage.module("bindings_check").tensorrt()
    logger = stage.module("logger").make_logger(trt, lambda level, text: None)
    module, builder = stage.module("builder_config"), trt.Builder(logger)
    options = {
        "compute_dtype": "float32",
        "refit": True,
        "strip_plan": True,
        "weight_streaming": True,
        "log_level": "verbose",
        "aux_streams": 1,
    }
    plugins = PluginConfig(gpt_attention_plugin="float16", paged_kv_cache=True)
    config = module.builder_config(trt, builder, BuildConfig(**options, workspace_limit_mib=9, plugin_config=plugins))
    assert module.network_flags(trt) > 0
    profiles = stage.module("profiles")
    phase = profiles.PhaseProfile("decode", {"batch": profiles.Range(1, 1, 2)})
    module.add_profiles(builder, config, [phase], Model().io)


def parsing(stage: Stage) -> None:
    trt = stage.module("bindings_check").tensorrt()
    logger = stage.module("logger").make_logger(trt, lambda level, text: None)
    module, builder, model = stage.module("parsing"), trt.Builder(logger), Model()
    parsed = module.parsed_network(trt, builder, logger, model, 1)
    assert module.mark_debug_tensors(parsed, [model.proto.graph.node[0].name])
    fault = stage.recorder.new("ParserError", desc="no kernel", node_name="a/Add", node_operator="Add")
    parsed.parser._state["errors"].append(fault)
    assert "a: Add 'a/Add': no kernel" in str(module.parser_error(parsed.parser, "refused"))


def timings(stage: Stage) -> None:
    trt = stage.module("bindings_check").tensorrt()
    logger = stage.module("logger").make_logger(trt, lambda level, text: None)
    config = trt.Builder(logger).create_builder_config()
    module, path = stage.module("timing_cache"), stage.folder / "model.cache"
    stage.folder.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        module.attach(config, path, "key")
        module.store(config, path, "key")
    stage.recorder.behaviours["IBuilderConfig.set_timing_cache"] = lambda config, cache, ignore_mismatch: False
    module.attach(config, path, "key")


def every_option(stage: Stage) -> None:
    first = {"timing_cache": None, "log_level": "verbose", "phase_engines": "two", "refit": True}
    stage.build(**first, aux_streams=2, workspace_limit_mib=64, tiling="fast", enable_debug_output=True)
    stage.build(weight_streaming=True, capacity_buckets=(8,), profiling_verbosity="detailed")


def stripped(stage: Stage) -> None:
    assert stage.build(strip_plan=True, refit=True).stripped


def refused_network(stage: Stage) -> None:
    def parse(parser: Any) -> bool:
        for number in range(10):
            error = stage.recorder.new("ParserError", desc=f"fault {number}", node_name="", node_operator="")
            parser._state["errors"].append(error)
        return False

    stage.recorder.behaviours["OnnxParser.parse_model_proto"] = parse
    with stage.refused(TrtbenchError, "fault 7[^!]*and 2 more"):
        stage.build()


def unreadable_network(stage: Stage) -> None:
    stage.recorder.behaviours["OnnxParser.load_model_proto"] = lambda parser, model, path=None: False
    with stage.refused(TrtbenchError, "cannot read the ONNX file"):
        stage.build()


def refused_weights(stage: Stage) -> None:
    stage.recorder.behaviours["OnnxParser.load_initializer"] = lambda parser, name, data, size: False
    with stage.refused(TrtbenchError, "refuses the weights of transformer"):
        stage.build()


def failed_build(stage: Stage) -> None:
    severity = core().ILogger.Severity

    def fail(builder: Any, network: Any, config: Any) -> None:
        logger = stage.recorder.named("Builder")[-1].arguments["logger"]
        for number in range(5):
            logger.log(severity.WARNING, f"layer {number} is slow")
        logger.log(severity.INFO, "Trying.")
        logger.log(severity.VERBOSE, "Tactic 7")
        logger.log(severity.INTERNAL_ERROR, "No implementation found for node 3")

    stage.recorder.behaviours["Builder.build_serialized_network"] = fail
    with stage.refused(TrtbenchError, "could not build rank0.engine: No implementation"):
        stage.build()


def cancelled(stage: Stage) -> None:
    with stage.refused(BuildCancelled, "cancelled"):
        stage.build(CancelledReporter())


def refused_profile(stage: Stage) -> None:
    stage.recorder.behaviours["IBuilderConfig.add_optimization_profile"] = lambda config, profile: -1
    with stage.refused(TrtbenchError, "refuses an optimization profile"):
        stage.build()


def refused_timings(stage: Stage) -> None:
    answers = iter([False, True])
    stage.recorder.behaviours["IBuilderConfig.set_timing_cache"] = lambda config, cache, ignore_mismatch: next(answers)
    stage.recorder.behaviours["IBuilderConfig.get_timing_cache"] = lambda config: None
    stage.build()


Scenario = Callable[[Stage], None]
BUILDING: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        configuration,
        parsing,
        timings,
        every_option,
        stripped,
        refused_network,
        unreadable_network,
        refused_weights,
        failed_build,
        cancelled,
        refused_profile,
        refused_timings,
    )
}
