"""Killed, full, shared, damaged: a conversion leaves a whole checkpoint or nothing that opens."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from trtbench_lab.checkpoint import blocks as blocks_module
from trtbench_lab.checkpoint import config_from_source, convert, open_checkpoint, write_checkpoint
from trtbench_lab.checkpoint import writer as writer_module
from trtbench_lab.checkpoint.source import MemorySource
from trtbench_lab.errors import CheckpointError, IntakeError, StorageError, TrtbenchError
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.progress import ProgressEvent
from trtbench_lab.specs import Mapping

from .sources import gpt2_source, gpt2_tensors, gpt2_values, write_hf_folder

SRC = str(Path(__file__).parents[2] / "src")


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "model")


CHILD = """
import os, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from trtbench_lab.checkpoint import config_from_source, convert
from trtbench_lab.checkpoint.rank_file import RankFile
from trtbench_lab.intake.huggingface import open_hf_folder
from trtbench_lab.specs import Mapping
write = RankFile.write_blocks
def slowly(self, name, blocks):
    write(self, name, blocks)
    time.sleep(0.01)
def stopping(self, name, blocks):
    os.write(1, b"writing\\n")  # two ranks are written side by side: lines in one piece
    sys.stdin.read()
RankFile.write_blocks = stopping if sys.argv[3] == "stop" else slowly
source = open_hf_folder(sys.argv[1])
config = config_from_source(source, mapping=Mapping(tp_size=2))
print("ready", flush=True)
while True:
    convert(source, sys.argv[2], config=config, overwrite=True)
    print("whole", flush=True)
"""


def start_child(model: Path, target: Path, then: str = "run") -> subprocess.Popen[str]:
    """Start a process that converts for ever, or, with "stop", one that stands still in its first conversion."""
    environment = {**os.environ, "PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(model), str(target), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_conversion_leaves_nothing_that_opens_as_new(tmp_path: Path, seed: int) -> None:
    """The child converts for ever, 0.3 s each; it is killed in its first or a later conversion."""
    values = gpt2_values()
    model, target = write_hf_folder(tmp_path / "model", values, gpt2_tensors(values)), tmp_path / "out"
    child = start_child(model, target)
    try:
        time.sleep(random.Random(seed).uniform(0.02, 1.0))
    finally:
        os.kill(child.pid, signal.SIGKILL)
        told, _ = child.communicate()
    whole = "whole" in told
    if whole:
        open_checkpoint(target, verify=True)  # the last one that was finished
    else:
        with pytest.raises(CheckpointError):
            open_checkpoint(target)
    for path in tmp_path.iterdir():
        if ".partial-" in path.name and path.is_dir():
            with pytest.raises(CheckpointError):
                open_checkpoint(path)
    source = open_hf_folder(model)  # the next conversion is not in the way of what is left, and sweeps it up
    convert(source, target, config=config_from_source(source), overwrite=True)
    assert open_checkpoint(target, verify=True).world_size == 1
    assert not [name for name in left_over(tmp_path) if ".partial-" in name]


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    values = gpt2_values()
    model, target = write_hf_folder(tmp_path / "model", values, gpt2_tensors(values)), tmp_path / "out"
    child = start_child(model, target, "stop")
    source = open_hf_folder(model)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        with pytest.raises(StorageError, match=str(child.pid)):
            convert(source, target, config=config_from_source(source), overwrite=True)
        assert child.poll() is None  # the one that was there first is not disturbed
    finally:
        child.kill()
        child.communicate()
    convert(source, target, config=config_from_source(source), overwrite=True)  # the dead process holds nothing
    open_checkpoint(target, verify=True)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, workers: int
) -> None:
    source = gpt2_source(hidden=64, layers=3)
    config = config_from_source(source, mapping=Mapping(tp_size=4))
    written, really = [0], os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        written[0] += len(data)
        if written[0] > 400_000:
            raise OSError(number, os.strerror(number))
        return really(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(StorageError) as caught:
        convert(source, tmp_path / "out", config=config, workers=workers)
    assert ("disk is full" in str(caught.value)) == (number == errno.ENOSPC)
    assert left_over(tmp_path) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_a_limit_on_file_sizes_is_found_before_the_first_tensor(tmp_path: Path) -> None:
    source = gpt2_source(hidden=64)
    config, events = config_from_source(source, mapping=Mapping(tp_size=2)), []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError) as caught:
            convert(source, tmp_path / "out", config=config, progress=events.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "out") in str(caught.value)
    assert max(event.done for event in events if event.phase == "write ranks") == 0
    assert left_over(tmp_path) == []


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda _: usage)
    source = gpt2_source()
    with pytest.raises(StorageError, match="1,000 bytes free") as caught:
        convert(source, tmp_path / "deeper" / "out", config=config_from_source(source))
    assert "Nothing was written" in str(caught.value)
    assert list(tmp_path.glob("**/*.safetensors")) == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["wte.weight", "h.1.attn.c_attn.weight", "h.0.mlp.c_proj.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_numbers_are_found_on_the_way(
    tmp_path: Path, name: str, value: float, workers: int
) -> None:
    values = gpt2_values()
    tensors = gpt2_tensors(values)
    tensors[name].view(-1)[-1] = value
    source = MemorySource(values, tensors, "models/broken")
    config = config_from_source(source, "bfloat16", mapping=Mapping(tp_size=2))
    with pytest.raises(IntakeError) as caught:
        convert(source, tmp_path / "out", config=config, workers=workers)
    assert name in str(caught.value)
    assert ("NaN" if value != value else "infinite") in str(caught.value)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (65519.0, True), (65520.0, False), (-1e6, False)])
def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path, value: float, fits: bool) -> None:
    values = gpt2_values()
    tensors = gpt2_tensors(values)
    tensors["h.1.mlp.c_fc.weight"][3, 5] = value
    source = MemorySource(values, tensors)
    if fits:  # up to half a step above the largest value, which rounds down to it
        convert(source, tmp_path / "out", config=config_from_source(source, "float16"))
        return
    with pytest.raises(IntakeError, match="float16 cannot hold") as caught:
        convert(source, tmp_path / "out", config=config_from_source(source, "float16"))
    assert "h.1.mlp.c_fc.weight" in str(caught.value)
    convert(source, tmp_path / "out", config=config_from_source(source, "bfloat16"))


def test_an_existing_folder_is_kept_until_asked_otherwise(tmp_path: Path) -> None:
    first, second = gpt2_source(seed=1), gpt2_source(seed=2)
    convert(first, tmp_path / "out", config=config_from_source(first, mapping=Mapping(tp_size=2)))
    before = open_checkpoint(tmp_path / "out").digest
    with pytest.raises(StorageError, match="already exists"):
        convert(second, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out", verify=True).digest == before
    with pytest.raises(IntakeError):  # a failed replacement keeps it too
        convert(MemorySource(second.config, {}), tmp_path / "out", overwrite=True)
    assert open_checkpoint(tmp_path / "out", verify=True).digest == before
    convert(second, tmp_path / "out", overwrite=True)
    assert open_checkpoint(tmp_path / "out").world_size == 1  # rank1 of the first is gone with it
    assert left_over(tmp_path) == ["out"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    source = gpt2_source()

    def interrupt(event: ProgressEvent) -> None:
        if event.phase == "write ranks" and event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(
            source, tmp_path / "out", config=config_from_source(source, mapping=Mapping(tp_size=2)), progress=interrupt
        )
    assert left_over(tmp_path) == []


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    source, events = gpt2_source(), []
    config = config_from_source(source, mapping=Mapping(tp_size=2, pp_size=2))
    report = convert(source, tmp_path / "out", config=config, progress=events.append)
    last = [event for event in events if event.phase == "write ranks"][-1]
    assert (last.state, last.done, last.unit) == ("done", last.total, "B")
    assert last.total is not None
    assert 0 <= report.written_bytes - last.total < 4 * 16384  # the headers


def test_quantization_is_not_done_in_passing(tmp_path: Path) -> None:
    source = gpt2_source()
    config = config_from_source(source, quantization={"quant_algo": "W8A16"})
    with pytest.raises(CheckpointError, match="quantize"):
        convert(source, tmp_path / "out", config=config)


def test_ranks_that_lack_a_tensor_do_not_make_a_checkpoint(tmp_path: Path) -> None:
    source = gpt2_source()
    config = config_from_source(source)
    with pytest.raises((KeyError, TrtbenchError)):
        write_checkpoint(tmp_path / "out", config, lambda rank: {})
    assert left_over(tmp_path) == []


def test_paths_with_spaces_and_any_letters(tmp_path: Path) -> None:
    source = gpt2_source()
    folder = tmp_path / "My models – größer" / "模型 (1)"
    convert(source, folder, config=config_from_source(source))
    assert open_checkpoint(folder, verify=True).config.vocab_size == 101


class PeakResident:
    """Samples this process's resident memory, mapped pages included, from a thread of its own."""

    def __enter__(self) -> PeakResident:
        self._process, self._stop = psutil.Process(), threading.Event()
        self.baseline = self.peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.0005):
            self.peak = max(self.peak, self._process.memory_info().rss)


@pytest.mark.parametrize(("tp_size", "workers"), [(1, 1), (4, 4)])
def test_memory_stays_at_a_few_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tp_size: int, workers: int
) -> None:
    """50 MB of weights in tensors of at most 1 MB, and blocks of 64 KB, so that blocks do not count."""
    monkeypatch.setattr(blocks_module.BlockBuffers.__init__, "__defaults__", (1 << 16,))
    values = gpt2_values(hidden=256, heads=4, layers=16, vocab=64)
    model = write_hf_folder(tmp_path / "model", values, gpt2_tensors(values))
    config = config_from_source(open_hf_folder(model), mapping=Mapping(tp_size=tp_size))
    convert(open_hf_folder(model), tmp_path / "warm", config=config, workers=workers)
    source = open_hf_folder(model)  # a mapping of its own, of which nothing is resident yet
    with PeakResident() as memory:
        convert(source, tmp_path / "out", config=config, workers=workers)
    largest = max(source.tensor(name).nbytes for name in source.names())
    assert (model / "model.safetensors").stat().st_size > 40 * largest
    # A worker may have a tensor of its own in hand; 4 MB are for threads and the tables of names.
    assert memory.peak - memory.baseline < workers * 3 * largest + (4 << 20)
