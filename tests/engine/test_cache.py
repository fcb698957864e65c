"""Listing and pruning the engine cache."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from tests.engine.conftest import write_tiny_checkpoint

from trtbench_lab.engine import Engine, build, list_cached, prune
from trtbench_lab.errors import RequestError
from trtbench_lab.specs import BuildConfig
from trtbench_lab.storage import folder_lock, home_dir


@pytest.fixture
def three_engines(cache_template):
    """Three cached engines, oldest first."""
    shutil.copytree(cache_template, home_dir() / "engines")
    found = [Engine.from_dir(path, verify=False) for path in (home_dir() / "engines").iterdir() if path.is_dir()]
    engines = sorted(found, key=lambda engine: engine.config.build_config.max_batch_size)
    for age, engine in zip((300, 200, 100), engines, strict=True):
        seconds = engine.directory.stat().st_mtime - age
        os.utime(engine.directory, (seconds, seconds))
    return engines


def test_empty_cache():
    assert list_cached() == ()
    assert prune() == ()
    assert "0 engines" in repr(list_cached())


def test_listing(three_engines):
    listed = list_cached()
    assert [entry.directory for entry in listed] == [engine.directory for engine in reversed(three_engines)]
    assert {entry.backend for entry in listed} == {"fake"}
    for entry in listed:
        on_disk = sum(file.stat().st_size for file in entry.directory.iterdir())
        assert entry.size_bytes == entry.freed_bytes == on_disk
    assert listed.size_bytes == sum(entry.size_bytes for entry in listed)
    assert "GPTForCausalLM 2 layers" in repr(listed)
    assert listed[0].key[:12] in listed._repr_html_()


def test_use_makes_an_engine_young(three_engines, checkpoint_dir, fake):
    build(checkpoint_dir, BuildConfig(max_batch_size=1), builder=fake())
    assert list_cached()[0].directory == three_engines[0].directory


def test_prune_takes_the_oldest_first(three_engines):
    sizes = {entry.directory: entry.size_bytes for entry in list_cached()}
    newest_two = sizes[three_engines[1].directory] + sizes[three_engines[2].directory]
    assert [entry.directory for entry in prune(newest_two, dry_run=True)] == [three_engines[0].directory]
    assert len(list_cached()) == 3
    assert [entry.directory for entry in prune(newest_two)] == [three_engines[0].directory]
    assert {entry.directory for entry in list_cached()} == {engine.directory for engine in three_engines[1:]}
    assert prune(newest_two) == ()
    assert len(prune(0)) == 2
    assert not [path for path in (home_dir() / "engines").iterdir() if path.is_dir()]


def test_pruned_engine_lives_on_in_its_output_folder(checkpoint_dir, fake, tmp_path):
    build(checkpoint_dir, output_dir=tmp_path / "engine", builder=fake())
    (entry,) = list_cached()
    assert entry.freed_bytes < entry.size_bytes  # config.json alone is the cache's own
    prune(0)
    Engine.from_dir(tmp_path / "engine", builder=fake())


def test_prune_leaves_an_entry_in_use_alone(three_engines):
    with folder_lock(three_engines[0].directory):
        removed = prune(0)
    assert [entry.directory for entry in removed] == [three_engines[1].directory, three_engines[2].directory]
    Engine.from_dir(three_engines[0].directory, verify=False)


def test_prune_removes_leftovers_of_dead_builds(three_engines):
    living = home_dir() / "engines" / f".abc.partial-{os.getpid()}-00000000-1"
    host = re.search(r"partial-\d+-([0-9a-f]{8})", _partial_name_of_this_machine()).group(1)
    dead = home_dir() / "engines" / f".abc.partial-999999999-{host}-1"
    for folder in (living, dead):
        folder.mkdir()
        (folder / "rank0.engine").write_bytes(b"half")
    prune(1 << 40)
    assert living.exists()
    assert not dead.exists()
    assert len(list_cached()) == 3


def _partial_name_of_this_machine() -> str:
    from trtbench_lab.storage import staged_folder

    with staged_folder(home_dir() / "probe") as staging:
        return staging.name


def test_damaged_entries_are_listed_and_pruned(three_engines):
    (three_engines[0].directory / "config.json").write_text("{")
    assert [entry.backend for entry in list_cached()] == ["fake", "fake", None]
    assert "damaged" in repr(list_cached())
    assert len(prune(0)) == 3


@pytest.mark.parametrize("keep", [-1, 1.5, True, "1 GiB"])
def test_keep_must_be_bytes(keep):
    with pytest.raises(RequestError, match="keep_bytes"):
        prune(keep)


def test_loaded_engine_survives_pruning(fake, tmp_path):
    engine = build(write_tiny_checkpoint(tmp_path / "source"), builder=fake())
    executor = engine.executor()
    prune(0)
    assert executor.content.startswith(b"fake engine")
