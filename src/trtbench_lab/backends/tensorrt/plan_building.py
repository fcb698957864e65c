"""One plan from one network: configure, build under watch, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BuildCancelled, BuildError
from ...network.referenced import ReferencedNetwork
from ...specs import BuildConfig
from ...storage import storage_error
from ..protocol import BuildReporter
from . import timing_cache
from .bindings_check import created
from .builder_config import add_profiles, builder_config, network_flags
from .logger import MessageGroups
from .parsing import mark_debug_tensors, parsed_network
from .profiles import PlannedFile
from .progress_monitor import PhaseReport, make_progress_monitor

_PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class BuildSession:
    """What all plans of one rank share.

    Attributes
    ----------
    trt, logger
        The bindings, and the logger that everything of TensorRT holds on to.
    options
        The resolved build configuration.
    report
        Where progress goes.
    timings, timings_key
        The timing cache's file and the key of this machine in it.
    """

    trt: Any
    logger: Any
    options: BuildConfig
    report: BuildReporter
    timings: Path
    timings_key: str

    @property
    def messages(self) -> MessageGroups:
        """What TensorRT has said."""
        return self.logger.groups  # type: ignore[no-any-return]


def write_plan(session: BuildSession, source: ReferencedNetwork, planned: PlannedFile, path: Path) -> list[str]:
    """Build the plan of one network and write it to `path`; return the names of its debug tensors.

    Raises
    ------
    BuildCancelled
        When the owner stopped it; TensorRT ends at its next step.
    BuildError
        When TensorRT fails, with what it said.
    """
    trt, report, options = session.trt, session.report, session.options
    with report.phase("parse network"):
        builder = created(lambda: trt.Builder(session.logger), "a builder")
        parsed = parsed_network(trt, builder, session.logger, source, network_flags(trt))
        network = parsed.network
        names = [node.name or "" for node in source.network.model.graph]
        marked = mark_debug_tensors(parsed, names) if options.enable_debug_output else []
        config = builder_config(trt, builder, options)
        add_profiles(builder, config, planned.profiles, source.network.io)
        cache, said = timing_cache.attach(config, session.timings, session.timings_key)
        report.log("info", said)
        report.log("info", f"{planned.name}: {network.num_layers} layers, {len(planned.profiles)} profiles.")
        for number, profile in enumerate(planned.profiles):
            report.log("info", f"{planned.name}, profile {number}: {profile}")
    phases = PhaseReport(report)
    config.progress_monitor = monitor = make_progress_monitor(trt, phases)
    with report.phase(f"build {planned.name}"):
        try:
            memory = builder.build_serialized_network(network, config)
        finally:
            phases.close()
            session.messages.finish()
    if memory is None:
        if phases.cancelled:
            raise BuildCancelled("The build was cancelled.")
        raise _failed(session, planned)
    report.log("info", timing_cache.store(config, session.timings, session.timings_key))
    with report.phase("write engine"):
        write_plan_memory(path, memory, report)
    # The monitor, the cache and the parser's weights must outlive the build; here it is over.
    del monitor, cache, parsed
    return marked


def write_plan_memory(path: Path, memory: Any, report: BuildReporter) -> None:
    """Write a serialized plan piece by piece, so that a cancel is heard in between."""
    view = memoryview(memory)
    try:
        with open(path, "wb") as handle:
            for start in range(0, memory.nbytes, _PIECE_BYTES):
                report.check_cancelled()
                handle.write(view[start : start + _PIECE_BYTES])
    except OSError as error:
        raise storage_error(error, path, "write the engine") from error


def _failed(session: BuildSession, planned: PlannedFile) -> BuildError:
    errors = session.messages.errors
    text = "\n".join(errors)
    first = errors[0] if errors else "it gave no reason"
    remedy = "The build log has all of TensorRT's messages."
    if "memory" in text.lower():
        remedy = "Free GPU memory, lower max_batch_size, max_input_len or max_num_tokens, or raise workspace_limit_mib."
    elif "no implementation" in text.lower() or "tactic" in text.lower():
        remedy = (
            "TensorRT has no kernel for a layer on this GPU. Try another compute_dtype or opt_level, a larger "
            "workspace_limit_mib, or --gpt_attention_plugin float16 where attention is named."
        )
    return BuildError(
        f"TensorRT could not build {planned.name}: {first}",
        where="tensorrt backend",
        remedy=remedy,
        details=text or None,
    )
