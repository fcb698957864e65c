"""`build`: what it makes, when it builds again and when it does not, and what it refuses at once."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.engine.conftest import tiny_config, write_tiny_checkpoint

from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.engine import Engine, build, start_build
from trtbench_lab.errors import BuildError, CheckpointError, SpecError, StorageError
from trtbench_lab.file_digest import digest_by_chunk
from trtbench_lab.models import AutoModelForCausalLM
from trtbench_lab.progress import ProgressEvent
from trtbench_lab.specs import BuildConfig, Mapping
from trtbench_lab.storage import home_dir


def builds_in(mark: Path) -> int:
    return len(mark.read_text().split()) if mark.exists() else 0


def test_folder_says_what_it_is(checkpoint_dir, fake, tmp_path):
    engine = build(checkpoint_dir, BuildConfig(max_batch_size=3), tmp_path / "engine", builder=fake(noise=3))
    content = json.loads((tmp_path / "engine" / "config.json").read_text())
    assert content["backend"] == "fake"
    assert content["backend_version"] == "fake 1.2"
    assert content["pretrained_config"]["hidden_size"] == 32
    assert content["build_config"]["max_batch_size"] == 3
    assert "gpt_attention_plugin" in content["build_config"]["plugin_config"]
    assert content["machine"]["arch"] == os.uname().machine
    assert content["key"].startswith("xxh3_128:")
    assert content["checkpoint"] == {"directory": str(checkpoint_dir), "digest": open_checkpoint(checkpoint_dir).digest}
    assert "The fake backend computes nothing." in content["notes"]
    assert set(content["files"]) == {"rank0.engine", "rank0.side", "build.log"}
    for name, record in content["files"].items():
        file = tmp_path / "engine" / name
        assert record == {"bytes": file.stat().st_size, "digest": digest_by_chunk(file)}
    assert {phase["name"] for phase in content["build_report"]["phases"]} >= {"noisy native code", "write the engine"}
    assert engine.build_report.peak_bytes > 5 << 20  # a Python process holds more than 5 MiB
    assert engine.build_report.warnings == 1
    assert engine.build_report.errors == 1
    log = (tmp_path / "engine" / "build.log").read_text()
    assert "warning: 2026-01-31" in log
    assert "info: built rank 0" in log
    assert not engine.from_cache
    assert not list((tmp_path).glob(".*"))


def test_same_inputs_build_once(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    first = build(checkpoint_dir, output_dir=tmp_path / "a", builder=fake(mark=str(mark)))
    second = build(checkpoint_dir, output_dir=tmp_path / "b", builder=fake(mark=str(mark)))
    third = build(checkpoint_dir, builder=fake(mark=str(mark)))
    again = build(checkpoint_dir, output_dir=tmp_path / "a", builder=fake(mark=str(mark)))
    assert [first.from_cache, second.from_cache, third.from_cache, again.from_cache] == [False, True, True, True]
    assert builds_in(mark) == 1
    assert third.directory.parent == home_dir() / "engines"
    assert third.name == checkpoint_dir.name
    assert {e.config.key for e in (first, second, third, again)} == {first.config.key}
    assert (tmp_path / "b" / "rank0.engine").read_bytes() == (tmp_path / "a" / "rank0.engine").read_bytes()
    assert "taken from the cache" in repr(second)


def test_a_cached_engine_says_what_of_this_request_has_no_effect(checkpoint_dir, fake, tmp_path):
    longest = json.loads((checkpoint_dir / "config.json").read_text())["max_position_embeddings"]
    fitting, beyond = BuildConfig(max_input_len=longest - 1), BuildConfig(max_input_len=longest + 7)
    first = build(checkpoint_dir, fitting, output_dir=tmp_path / "a", builder=fake())
    assert not any("clipped" in note for note in first.config.notes)
    for folder in ("a", "b"):  # already in the output folder; from the cache
        again = build(checkpoint_dir, beyond, output_dir=tmp_path / folder, builder=fake())
        assert again.from_cache
        assert sum("clipped" in note for note in again.config.notes) == 1
        assert again.config.notes[: len(first.config.notes)] == first.config.notes


@pytest.mark.parametrize(
    "change",
    [
        {"build_config": BuildConfig(max_batch_size=7)},
        {"build_config": BuildConfig(legacy_names=True)},
        {"seed": 1},
        {"env": ("FAKE_VERSION", "fake 1.3")},
        {"env": ("FAKE_MACHINE", "x86_64 fakevec3")},
    ],
    ids=["limits", "legacy-names", "weights", "backend-version", "machine"],
)
def test_other_inputs_build_again(checkpoint_dir, fake, tmp_path, monkeypatch, change):
    mark = tmp_path / "mark"
    first = build(checkpoint_dir, builder=fake(mark=str(mark)))
    if "env" in change:
        monkeypatch.setenv(*change["env"])
    source = write_tiny_checkpoint(tmp_path / "other", seed=1) if "seed" in change else checkpoint_dir
    second = build(source, change.get("build_config"), builder=fake(mark=str(mark)))
    assert builds_in(mark) == 2
    assert first.config.key != second.config.key


def test_how_a_build_is_run_is_not_part_of_its_key(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    build(checkpoint_dir, builder=fake(mark=str(mark)))
    build(checkpoint_dir, BuildConfig(timeout_s=99, workers=2, log_level="warning"), builder=fake(mark=str(mark)))
    assert builds_in(mark) == 1


def test_moved_checkpoint_is_the_same_checkpoint(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    build(checkpoint_dir, builder=fake(mark=str(mark)))
    moved = write_tiny_checkpoint(tmp_path / "elsewhere" / "copy")
    engine = build(moved, output_dir=tmp_path / "engine", builder=fake(mark=str(mark)))
    assert builds_in(mark) == 1
    assert engine.config.checkpoint["directory"] == str(moved)
    assert Engine.from_dir(tmp_path / "engine", builder=fake()).config.checkpoint["directory"] == str(moved)


def test_without_cache_it_is_built_anew_and_in_place(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    build(checkpoint_dir, builder=fake(mark=str(mark)))
    engine = build(checkpoint_dir, output_dir=tmp_path / "e", use_cache=False, builder=fake(mark=str(mark)))
    assert builds_in(mark) == 2
    assert not engine.from_cache
    assert (tmp_path / "e" / "rank0.engine").stat().st_nlink == 1
    by_config = build(checkpoint_dir, BuildConfig(use_cache=False), builder=fake(mark=str(mark)))
    assert builds_in(mark) == 3
    assert by_config.directory.parent == home_dir() / "engines"


def test_output_is_hard_linked_and_read_only(checkpoint_dir, fake, tmp_path):
    engine = build(checkpoint_dir, output_dir=tmp_path / "engine", builder=fake())
    cached = home_dir() / "engines" / engine.config.key.rpartition(":")[2]
    assert os.path.samefile(tmp_path / "engine" / "rank0.engine", cached / "rank0.engine")
    assert "Hard links" in engine.placement
    assert stat.S_IMODE((tmp_path / "engine" / "rank0.engine").stat().st_mode) == 0o444


def test_copies_where_links_are_impossible(checkpoint_dir, fake, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(18, os.strerror(18), str(target))

    monkeypatch.setattr(os, "link", refuse)
    engine = build(checkpoint_dir, output_dir=tmp_path / "engine", builder=fake())
    assert "Copied" in engine.placement
    assert "cross-device" in engine.placement
    assert (tmp_path / "engine" / "rank0.engine").stat().st_nlink == 1
    Engine.from_dir(tmp_path / "engine", builder=fake())


def test_existing_folders_are_kept(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(StorageError, match="not empty"):
        build(checkpoint_dir, output_dir=tmp_path / "thesis", builder=fake(mark=str(mark)))
    with pytest.raises(StorageError, match="not an engine folder"):
        build(checkpoint_dir, output_dir=tmp_path / "thesis", overwrite=True, builder=fake(mark=str(mark)))
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        build(checkpoint_dir, output_dir=tmp_path / "file", overwrite=True, builder=fake(mark=str(mark)))
    assert builds_in(mark) == 0
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_overwrite_replaces_an_engine_as_a_whole(checkpoint_dir, fake, tmp_path):
    target = tmp_path / "engine"
    old = build(checkpoint_dir, output_dir=target, builder=fake())
    (target / "rank0.engine").unlink()
    with pytest.raises(StorageError, match="not empty"):
        build(checkpoint_dir, BuildConfig(max_batch_size=2), target, builder=fake())
    new = build(checkpoint_dir, BuildConfig(max_batch_size=2), target, overwrite=True, builder=fake())
    assert new.config.key != old.config.key
    assert Engine.from_dir(target, builder=fake()).config.build_config.max_batch_size == 2


def test_damaged_output_of_the_same_inputs_is_mended_on_request(checkpoint_dir, fake, tmp_path):
    target = tmp_path / "engine"
    build(checkpoint_dir, output_dir=target, builder=fake())
    (target / "rank0.engine").unlink()
    (target / "rank0.engine").write_bytes(b"short")
    with pytest.raises(StorageError, match="not empty"):
        build(checkpoint_dir, output_dir=target, builder=fake())
    mended = build(checkpoint_dir, output_dir=target, overwrite=True, builder=fake())
    assert mended.from_cache
    Engine.from_dir(target, builder=fake())


def test_empty_output_folder_is_taken(checkpoint_dir, fake, tmp_path):
    (tmp_path / "engine").mkdir()
    assert build(checkpoint_dir, output_dir=tmp_path / "engine", builder=fake()).directory == tmp_path / "engine"


@pytest.mark.parametrize("name", ["with space", "ünïcode-数", "semi;colon'quote\"", "-dash"])
def test_awkward_paths(fake, tmp_path, name):
    source = write_tiny_checkpoint(tmp_path / name / "checkpoint")
    engine = build(source, output_dir=tmp_path / name / "my engine", builder=fake())
    assert Engine.from_dir(str(engine.directory), builder=fake()).config.key == engine.config.key


def test_older_names_on_request(two_rank_checkpoint_dir, fake, tmp_path):
    config = BuildConfig(legacy_names=True)
    engine = build(two_rank_checkpoint_dir, config, tmp_path / "engine", builder=fake())
    for rank in (0, 1):
        older = tmp_path / "engine" / f"gpt_float32_tp2_rank{rank}.engine"
        assert older.name in engine.config.files
        assert older.read_bytes() == (tmp_path / "engine" / f"rank{rank}.engine").read_bytes()


def test_one_engine_a_rank(two_rank_checkpoint_dir, fake, tmp_path):
    engine = build(two_rank_checkpoint_dir, output_dir=tmp_path / "engine", builder=fake())
    assert {"rank0.engine", "rank1.engine"} <= set(engine.config.files)
    assert (tmp_path / "engine/rank0.engine").read_bytes() != (tmp_path / "engine/rank1.engine").read_bytes()
    assert engine.world_size == 2
    assert engine.executor(1).content == (tmp_path / "engine/rank1.engine").read_bytes()
    assert {phase["rank"] for phase in engine.build_report.phases} >= {0, 1}


@pytest.mark.parametrize(("cores", "processes"), [(2, 2), (1, 1)])
def test_parallel_build_falls_back_and_says_so(two_rank_checkpoint_dir, fake, tmp_path, monkeypatch, cores, processes):
    from trtbench_lab.engine import workload

    monkeypatch.setattr(workload, "machine_fingerprint", lambda: {"cpu_cores_usable": cores, "gpus": []})
    mark = tmp_path / "mark"
    engine = build(two_rank_checkpoint_dir, BuildConfig(parallel_build=True), builder=fake(mark=str(mark)))
    assert len(set(mark.read_text().split())) == processes
    assert engine.build_report.workers == processes
    told = any("one after the other" in note for note in engine.config.notes)
    assert told == (processes == 1)


def test_ranks_are_shared_out_over_gpus():
    from trtbench_lab.engine import workload

    gpus = [{"name": "NVIDIA H200"}] * 2
    plan = SimpleNamespace(
        model_config=tiny_config(mapping=Mapping(world_size=4, tp_size=4, pp_size=1)),
        build_config=BuildConfig(parallel_build=True),
        builder=SimpleNamespace(machine_key=lambda: "NVIDIA H200 sm90"),
    )
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "machine_fingerprint", lambda: {"gpus": gpus, "cpu_cores_usable": 64})
        assert workload.ranks_by_worker(plan, notes.append) == [[0, 2], [1, 3]]
    assert notes == ["4 ranks were to be built side by side; with 2 GPUs they are built 2 at a time."]


def test_workers_that_build_side_by_side_find_another_gpu_first(two_rank_checkpoint_dir, fake, monkeypatch):
    from trtbench_lab.engine import process, workload

    seen: list[str] = []
    real = process.subprocess.Popen

    def started(command, *arguments, **keywords):
        if "trtbench_lab.engine.worker" in command:
            seen.append(keywords["env"]["CUDA_VISIBLE_DEVICES"])
        return real(command, *arguments, **keywords)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    monkeypatch.setattr(workload, "machine_fingerprint", lambda: {"cpu_cores_usable": 2, "gpus": []})
    monkeypatch.setattr(process.subprocess, "Popen", started)
    build(two_rank_checkpoint_dir, BuildConfig(parallel_build=True), builder=fake())
    assert seen == ["4,6,7", "6,7,4"]


def test_model_in_memory(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    model = AutoModelForCausalLM.from_checkpoint(checkpoint_dir)
    model.source_dir = tmp_path
    engine = build(model, output_dir=tmp_path / "engine", builder=fake(mark=str(mark)))
    assert [path.name for path in (home_dir() / "scratch").iterdir()] == []
    assert engine.config.checkpoint["directory"] is None
    assert engine.tokenizer_dir == tmp_path
    again = build(AutoModelForCausalLM.from_checkpoint(checkpoint_dir), builder=fake(mark=str(mark)))
    assert again.from_cache
    assert builds_in(mark) == 1


def test_model_in_memory_that_cannot_be_built(two_rank_checkpoint_dir, fake):
    with pytest.raises(BuildError, match="holds rank 1 of 2"):
        build(AutoModelForCausalLM.from_checkpoint(two_rank_checkpoint_dir, rank=1), builder=fake())
    with pytest.raises(CheckpointError, match="no weights"):
        build(AutoModelForCausalLM.from_config(tiny_config()), builder=fake())
    assert [path.name for path in (home_dir() / "scratch").iterdir()] == []


def test_tokenizer_is_recorded(checkpoint_dir, fake, tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", seed=5)
    assert build(source, builder=fake()).tokenizer_dir is None
    given = build(source, output_dir=tmp_path / "given", tokenizer_dir=tmp_path, builder=fake())
    assert given.from_cache
    assert Engine.from_dir(tmp_path / "given", builder=fake()).tokenizer_dir == tmp_path
    (source / "tokenizer.json").write_text("{}")
    assert build(source, output_dir=tmp_path / "own", builder=fake()).tokenizer_dir == source


def test_mistakes_are_seen_at_once(checkpoint_dir, fake, tmp_path):
    with pytest.raises(CheckpointError):
        start_build(tmp_path / "nowhere", builder=fake())
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        start_build(tmp_path / "empty", builder=fake())
    with pytest.raises(BuildError, match="not from int"):
        start_build(7, builder=fake())
    with pytest.raises(SpecError, match="max_batch_sise"):
        start_build(checkpoint_dir, {"max_batch_sise": 2}, builder=fake())
    with pytest.raises(SpecError):
        start_build(checkpoint_dir, "fast", builder=fake())
    with pytest.raises(SpecError, match="timeout_s"):
        start_build(checkpoint_dir, timeout_s=0, builder=fake())
    with pytest.raises(BuildError, match="tensorrt"):
        start_build(checkpoint_dir, BuildConfig(backend="tensorrt"))


def test_progress_and_events(checkpoint_dir, fake):
    seen, events = [], []
    build(checkpoint_dir, progress=seen.append, on_event=events.append, builder=fake(slow=0.6))
    assert all(isinstance(event, ProgressEvent) for event in seen)
    assert all(event.total is None for event in seen)  # nobody knows a percentage
    states = [(event.phase, event.state) for event in seen]
    assert states.index(("tune kernels", "running")) < states.index(("tune kernels", "done"))
    assert any(event.kind == "heartbeat" and event.peak_bytes for event in events)
    assert any(event.message and event.message.endswith("of memory") for event in seen)
    assert [event.text for event in events if event.kind == "state"] == ["done"]
    assert [event.elapsed_s for event in events] == sorted(event.elapsed_s for event in events)


def test_broken_callback_does_not_break_the_build(checkpoint_dir, fake):
    def broken(event):
        raise ValueError("no display")

    job = start_build(checkpoint_dir, on_event=broken, builder=fake(slow=0.5))
    job.wait()
    assert [line.severity for line in job.log_tail(100) if "no display" in line.text] == ["warning"]


def test_log_level_is_heeded(checkpoint_dir, fake, tmp_path):
    engine = build(
        checkpoint_dir, BuildConfig(log_level="error"), tmp_path / "engine", use_cache=False, builder=fake(noise=5)
    )
    log = (engine.directory / "build.log").read_text()
    assert "no kernel fits" in log
    assert "an unused initializer" not in log


def test_backend_that_links_out_of_the_folder_is_caught(checkpoint_dir, fake, tmp_path):
    with pytest.raises(BuildError, match="symbolic link"):
        build(checkpoint_dir, output_dir=tmp_path / "engine", builder=fake(symlink=str(tmp_path)))
    assert not (tmp_path / "engine").exists()
