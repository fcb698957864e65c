"""The builder's parts on their own: profiles, timing cache, messages, progress, machine keys."""

from __future__ import annotations

import json
import multiprocessing
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbench_lab.backends.protocol import QuietReporter
from trtbench_lab.backends.tensorrt import gpu, timing_cache
from trtbench_lab.backends.tensorrt.gpu import Gpu, runs_on
from trtbench_lab.backends.tensorrt.logger import SHOWN_ALIKE, MessageGroups, make_logger
from trtbench_lab.backends.tensorrt.parsing import module_of
from trtbench_lab.backends.tensorrt.profiles import (
    batch_buckets,
    capacities,
    length_buckets,
    padded_profiles,
    paged_profiles,
)
from trtbench_lab.backends.tensorrt.progress_monitor import PhaseReport, make_progress_monitor
from trtbench_lab.errors import BuildCancelled, BuildError
from trtbench_lab.network.signature import BATCH, LENGTH, ROWS, TOKENS, TensorSpec
from trtbench_lab.specs import BuildConfig

# ---- profiles ------------------------------------------------------------------------------------------------------

BUILDS = st.builds(
    BuildConfig,
    max_batch_size=st.integers(1, 9),
    max_beam_width=st.integers(1, 3),
    max_input_len=st.integers(1, 600),
    max_seq_len=st.just(700),
    batch_buckets=st.none() | st.lists(st.integers(1, 40), max_size=3).map(tuple),
    length_buckets=st.none() | st.lists(st.integers(1, 900), max_size=3).map(tuple),
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(build=BUILDS, capacity=st.integers(1, 700))
def test_every_step_within_the_limits_has_a_profile(build: BuildConfig, capacity: int):
    profiles = padded_profiles(build, capacity)
    rows = build.max_batch_size * build.max_beam_width
    for batch in range(1, rows + 1):
        decode = [one for one in profiles if one.phase == "decode" and _inside(one, {BATCH: batch, LENGTH: 1})]
        assert len(decode) == 1, "buckets of decode steps neither overlap nor leave gaps"
        for length in {1, min(capacity, build.max_input_len)}:
            assert any(_inside(one, {BATCH: batch, LENGTH: length}) for one in profiles if one.phase == "prompt")
    for one in profiles:
        assert all(1 <= size.min <= size.opt <= size.max for size in one.sizes.values())


@settings(max_examples=60, derandomize=True, deadline=None)
@given(build=BUILDS)
def test_every_packed_step_has_a_profile(build: BuildConfig):
    profiles = paged_profiles(build, 700)
    rows = build.max_batch_size * build.max_beam_width
    for batch in range(1, rows + 1):
        assert sum(_inside(one, {TOKENS: batch, ROWS: batch}) for one in profiles if one.phase == "decode") == 1
    most = rows * build.max_input_len
    assert any(_inside(one, {TOKENS: most, ROWS: rows}) for one in profiles)
    for one in profiles:
        assert all(1 <= size.min <= size.opt <= size.max for size in one.sizes.values())


def _inside(profile, sizes):
    return all(profile.sizes[name].min <= size <= profile.sizes[name].max for name, size in sizes.items())


def test_default_buckets():
    build = BuildConfig(max_batch_size=8, max_input_len=1024)
    assert batch_buckets(build) == (1, 8)
    assert length_buckets(build) == (128, 1024)
    assert capacities(build, 4096) == (4096,)
    assert length_buckets(BuildConfig(max_input_len=100)) == (100,)
    assert batch_buckets(BuildConfig(max_batch_size=1)) == (1,)
    assert capacities(BuildConfig(capacity_buckets=(512, 9999)), 4096) == (512, 4096)


def test_max_num_tokens_bounds_packed_prompts():
    build = BuildConfig(max_batch_size=4, max_input_len=512, max_num_tokens=600, length_buckets=())
    (prompt,) = [one for one in paged_profiles(build, 1024) if one.phase == "prompt"]
    assert prompt.sizes[TOKENS].max == 600


def test_fixed_tensors_need_no_shapes():
    (profile, *_) = padded_profiles(BuildConfig(), 16)
    assert profile.shapes(TensorSpec("scale", "input", "float32", (1,))) is None


# ---- timing cache --------------------------------------------------------------------------------------------------


def test_timings_of_other_versions_gpus_and_drivers_are_kept_apart(tmp_path: Path):
    path = tmp_path / "model.cache"
    keys = [
        timing_cache.cache_key("11.4.0.106", Gpu("NVIDIA H200", 90, "580.65")),
        timing_cache.cache_key("11.3.0.99", Gpu("NVIDIA H200", 90, "580.65")),
        timing_cache.cache_key("11.4.0.106", Gpu("NVIDIA L4", 89, "580.65")),
        timing_cache.cache_key("11.4.0.106", Gpu("NVIDIA H200", 90, "590.10")),
    ]
    assert len(set(keys)) == 4
    entries = {key: key.encode() + b"\0\n\xff" for key in keys}
    timing_cache.write_entries(path, entries)
    assert timing_cache.read_entries(path) == entries


def test_a_cache_of_tensorrts_own_tools_is_tried(tmp_path: Path):
    path = tmp_path / "model.cache"
    path.write_bytes(b"\x01\x02 raw")
    assert timing_cache.read_entries(path) == {"": b"\x01\x02 raw"}
    assert timing_cache.read_entries(tmp_path / "none") == {}
    path.write_bytes(b"")
    assert timing_cache.read_entries(path) == {}


@pytest.mark.parametrize(
    "content", [b"{", b'{"a": 5}\nabc', b'{"a": -1, "b": 4}\nabc', b"[1]\n", b'{"a": "x"}\n', b"", b"9" * 2_000_000]
)
def test_damaged_caches_are_named(tmp_path: Path, content: bytes):
    path = tmp_path / "model.cache"
    path.write_bytes(timing_cache.MAGIC + content)
    with pytest.raises(BuildError, match="timing cache cannot be read") as caught:
        timing_cache.read_entries(path)
    assert "Remove it" in caught.value.remedy


def _store(folder: str, number: int) -> None:
    """Add an entry as a rank's worker does: read, extend and write under the lock."""
    path = Path(folder) / "model.cache"
    for step in range(20):
        with timing_cache._locked(path):
            entries = timing_cache.read_entries(path)
            entries[f"{number}-{step}"] = bytes([number]) * step
            timing_cache.write_entries(path, entries)


def test_ranks_that_are_built_at_once_lose_nothing(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_store, args=(str(tmp_path), number)) for number in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(timing_cache.read_entries(tmp_path / "model.cache")) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["model.cache"]


def test_timings_are_read_and_merged(recorder, tmp_path: Path):
    trt = recorder.module
    config = trt.Builder(trt.Logger()).create_builder_config()
    path = tmp_path / "model.cache"
    timing_cache.write_entries(path, {"key": b"old", "other": b"kept"})
    _, said = timing_cache.attach(config, path, "key")
    assert "3 bytes of kernel timings" in said
    timing_cache.write_entries(path, {"key": b"another rank's", "other": b"kept"})
    timing_cache.store(config, path, "key")
    assert timing_cache.read_entries(path) == {"key": b"old+another rank's", "other": b"kept"}


# ---- messages and progress -----------------------------------------------------------------------------------------


def test_messages_that_differ_in_numbers_are_counted():
    lines: list[tuple[str, str]] = []
    groups = MessageGroups(lambda level, text: lines.append((level, text)))
    for number in range(10):
        groups.add("warning", f"Layer {number} has 0x{number:x} formats")
        groups.add("info", f"Step {number}")
    groups.add("error", "Out of memory")
    groups.finish()
    warnings = [text for level, text in lines if level == "warning"]
    assert len(warnings) == SHOWN_ALIKE + 1
    assert warnings[-1] == "[TRT] 7 more like this: Layer 0 has 0x0 formats"
    assert sum(level == "info" for level, _ in lines) == 10
    assert groups.errors == ["Out of memory"]


def test_tensorrts_severities(recorder):
    lines: list[tuple[str, str]] = []
    trt = recorder.module
    logger = make_logger(trt, lambda level, text: lines.append((level, text)))
    for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        logger.log(getattr(trt.ILogger.Severity, name), name)
    assert [level for level, _ in lines] == ["error", "error", "warning", "info", "debug"]


def test_phases_of_several_threads_are_told_and_ended(recorder):
    report = QuietReporter()
    phases = PhaseReport(report)
    monitor = make_progress_monitor(recorder.module, phases)

    def work(number: int) -> None:
        name = f"Timing {number}"
        monitor.phase_start(name, "Building", 3)
        monitor.phase_start(f"{name} inner", name, 1)
        assert monitor.step_complete(name, 0)
        monitor.phase_finish(f"{name} inner")
        monitor.phase_finish(name)

    monitor.phase_start("Building", None, 2)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.phases) == ["TensorRT: Building", *(f"TensorRT: Timing {number}" for number in range(4))]
    assert sum("inner took" in text for level, text in report.lines if level == "debug") == 4
    phases.close()  # the root was left open, as by a build that fails
    monitor.phase_finish("never started")


class Stoppable(QuietReporter):
    """Raises, as the worker's reporter does, in `phase` and `check_cancelled` once it is to stop."""

    stop = False

    @contextmanager
    def phase(self, name):
        self.check_cancelled()
        self.phases.append(name)
        yield
        self.check_cancelled()

    def check_cancelled(self):
        if self.stop:
            raise BuildCancelled("The build was cancelled.")


def test_a_cancel_reaches_tensorrt_and_no_exception_does(recorder):
    report = Stoppable()
    phases = PhaseReport(report)
    monitor = make_progress_monitor(recorder.module, phases)
    monitor.phase_start("Building", None, 3)
    assert monitor.step_complete("Building", 0) is True
    report.stop = True
    assert monitor.step_complete("Building", 1) is False
    monitor.phase_start("late", None, 1)
    monitor.phase_finish("Building")
    assert phases.cancelled
    assert monitor.step_complete("Building", 2) is False


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("transformer.layers.3.attention/TRT_Attention", "transformer.layers.3.attention"),
        ("transformer.layers.3.mlp.fc.weight", "transformer.layers.3.mlp.fc"),
        ("transformer.layers.3.mlp.fc.weight:blocks", "transformer.layers.3.mlp.fc"),
        ("Add_7", "Add_7"),
    ],
)
def test_nodes_and_weights_tell_their_module(name: str, module: str):
    assert module_of(name) == module


@pytest.mark.parametrize(
    ("here", "level", "fits"),
    [
        ("x86_64 cuda sm90 NVIDIA H200", "none", True),
        ("x86_64 cuda sm90 NVIDIA H100", "none", False),
        ("x86_64 cuda sm90 NVIDIA H100", "same_compute_capability", True),
        ("x86_64 cuda sm80 NVIDIA A100", "same_compute_capability", False),
        ("x86_64 cuda sm80 NVIDIA A100", "ampere_plus", True),
        ("x86_64 cuda sm75 Tesla T4", "ampere_plus", False),
        ("aarch64 cuda sm90 NVIDIA GH200", "ampere_plus", False),
        ("x86_64 cpu", "ampere_plus", False),
    ],
)
def test_which_machines_an_engine_runs_on(here: str, level: str, fits: bool):
    assert runs_on(here, "x86_64 cuda sm90 NVIDIA H200", level) is fits


def test_the_drivers_version_is_read_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "version"
    monkeypatch.setattr(gpu, "_DRIVER_FILE", path)
    assert gpu.driver_version() == "unknown"
    path.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.2"
    )
    assert gpu.driver_version() == "580.65.06"
    assert json.dumps(gpu.current_gpu().driver) == '"580.65.06"'
