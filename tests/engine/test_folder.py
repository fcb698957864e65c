"""Opening an engine folder: what is whole and fits is opened, everything else is refused before it is loaded."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtbench_lab import __version__
from trtbench_lab.engine import Engine, build
from trtbench_lab.engine.config import EngineConfig, read_engine_config
from trtbench_lab.errors import EngineError, EngineMismatchError, StorageError, TrtbenchError
from trtbench_lab.storage import digest_of_file, home_dir


def change_config(folder: Path, **changes) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


def test_open_and_execute(folder, fake):
    engine = Engine.from_dir(folder, builder=fake())
    executor = engine.executor(device="cpu")
    assert executor.content == (folder / "rank0.engine").read_bytes()
    assert executor.device == "cpu"
    assert executor.config.hidden_size == 32
    assert repr(engine).splitlines()[1].split() == ["backend", "fake", "(fake", "1.2)"]
    assert next(iter(engine.summary())) == "backend"
    assert "fake 1.2" in engine._repr_html_()
    assert engine.build_report.seconds == engine.config.build_seconds > 0
    assert engine.name == "engine"


def test_config_survives_the_round_trip(folder):
    config = read_engine_config(folder)
    assert EngineConfig.from_dict(json.loads(json.dumps(config.to_dict())), "x") == config


@pytest.mark.parametrize("cut", [0, 1, 200])
def test_truncated_engine(folder, fake, cut):
    whole = (folder / "rank0.engine").read_bytes()
    (folder / "rank0.engine").unlink()
    (folder / "rank0.engine").write_bytes(whole[:cut])
    with pytest.raises(EngineError, match=f"'rank0.engine' is truncated: it has {cut} bytes, and {len(whole):,}"):
        Engine.from_dir(folder, builder=fake())


def test_one_changed_bit(folder, fake):
    content = bytearray((folder / "rank0.engine").read_bytes())
    content[len(content) // 2] ^= 4
    (folder / "rank0.engine").unlink()
    (folder / "rank0.engine").write_bytes(content)
    with pytest.raises(EngineError, match=r"'rank0.engine' has changed since it was built"):
        Engine.from_dir(folder, builder=fake())
    Engine.from_dir(folder, verify=False, builder=fake())  # may be looked at


@pytest.mark.parametrize("name", ["rank0.engine", "rank0.side", "build.log"])
def test_missing_file(folder, fake, name):
    (folder / name).unlink()
    with pytest.raises(EngineError, match=f"'{name}' is missing"):
        Engine.from_dir(folder, builder=fake())


def test_missing_rank(two_rank_checkpoint_dir, fake, tmp_path):
    folder = build(two_rank_checkpoint_dir, output_dir=tmp_path / "engine", builder=fake()).directory
    files = json.loads((folder / "config.json").read_text())["files"]
    del files["rank1.engine"]
    change_config(folder, files=files)
    with pytest.raises(EngineError, match="rank 1 is missing"):
        Engine.from_dir(folder, builder=fake())


def test_only_one_rank_is_read(two_rank_checkpoint_dir, fake, tmp_path):
    folder = build(two_rank_checkpoint_dir, output_dir=tmp_path / "engine", builder=fake()).directory
    content = (folder / "rank1.engine").read_bytes()
    (folder / "rank1.engine").unlink()
    (folder / "rank1.engine").write_bytes(content[::-1])
    Engine.from_dir(folder, rank=0, builder=fake())
    with pytest.raises(EngineError, match=r"rank1.engine"):
        Engine.from_dir(folder, rank=1, builder=fake())


def test_no_engine_there(tmp_path, checkpoint_dir, fake):
    with pytest.raises(EngineError, match="no such engine folder"):
        Engine.from_dir(tmp_path / "nowhere", builder=fake())
    with pytest.raises(EngineError, match=r"no config\.json"):
        Engine.from_dir(tmp_path, builder=fake())
    with pytest.raises(EngineError, match="configuration of a checkpoint") as caught:
        Engine.from_dir(checkpoint_dir, builder=fake())
    assert "Build an engine" in caught.value.remedy


def test_unfinished_folder(folder, fake):
    partial = folder.with_name(".engine.partial-1-00000000-abcd")
    shutil.move(folder, partial)
    with pytest.raises(EngineError, match="never finished"):
        Engine.from_dir(partial, builder=fake())


def test_other_format_version(folder, fake):
    change_config(folder, format_version=99, pretrained_config={"from": "the future"})
    with pytest.raises(EngineMismatchError) as caught:
        Engine.from_dir(folder, builder=fake())
    assert "format version 99" in caught.value.what
    assert "reads format version 1" in caught.value.what
    assert "Build the engine again" in caught.value.remedy


def test_other_major_version(folder, fake):
    change_config(folder, version="7.0.1")
    with pytest.raises(EngineMismatchError, match=r"7\.0\.1") as caught:
        Engine.from_dir(folder, builder=fake())
    assert __version__ in caught.value.what


def test_other_backend_version(folder, fake, monkeypatch):
    monkeypatch.setenv("FAKE_VERSION", "fake 2.0")
    with pytest.raises(EngineMismatchError, match=r"built with fake 1\.2; fake 2\.0 is installed"):
        Engine.from_dir(folder, builder=fake())
    unchecked = Engine.from_dir(folder, verify=False, builder=fake())
    with pytest.raises(EngineMismatchError):  # it can be looked at, and still not be loaded
        unchecked.executor()


def test_other_machine(folder, fake, monkeypatch):
    monkeypatch.setenv("FAKE_MACHINE", "aarch64 sve")
    with pytest.raises(EngineMismatchError, match=r"'x86_64 fakevec2'.*'aarch64 sve'"):
        Engine.from_dir(folder, builder=fake())


def test_other_backend(folder, fake):
    change_config(folder, backend="onnxruntime")
    with pytest.raises(EngineMismatchError, match="built by the onnxruntime backend; the fake backend cannot load it"):
        Engine.from_dir(folder, builder=fake())


@pytest.mark.parametrize("name", ["fake", "tensorrt"])
def test_backend_that_is_not_here(folder, name):
    change_config(folder, backend=name)
    with pytest.raises(EngineMismatchError, match=f"built by the {name} backend .* cannot be used here"):
        Engine.from_dir(folder)


@pytest.mark.parametrize("layout", [{"tp_size": 2}, {"pp_size": 4}, {"tp_size": 2, "pp_size": 2}])
def test_other_layout(folder, fake, layout):
    with pytest.raises(EngineMismatchError, match="built for tp_size 1 and pp_size 1"):
        Engine.from_dir(folder, builder=fake(), **layout)
    Engine.from_dir(folder, builder=fake(), tp_size=1, pp_size=1)


@pytest.mark.parametrize("rank", [-1, 1, True, "0"])
def test_rank_that_is_not_there(folder, fake, rank):
    with pytest.raises(EngineMismatchError, match=r"no rank .* 1 rank\(s\)"):
        Engine.from_dir(folder, builder=fake()).executor(rank)


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "a/../../b", "a\\..\\b", "", "nul\0", "config.json"])
def test_file_names_that_lead_out_of_the_folder(folder, fake, name):
    files = json.loads((folder / "config.json").read_text())["files"]
    change_config(folder, files={**files, name: {"bytes": 1, "digest": "xxh3_128:0"}})
    with pytest.raises(EngineError, match="not the name of a file"):
        Engine.from_dir(folder, builder=fake())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format_version": 1}', b"[" * 100_000, b'{"a":' * 50_000, b"1" * 9000],
    ids=range(9),
)
def test_malformed_config(folder, fake, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(EngineError) as caught:
        Engine.from_dir(folder, builder=fake())
    assert str(folder) in str(caught.value)
    assert caught.value.remedy


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["float16", "auto", "disable", "rank0.engine", 0, 1, -1, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def _paths(table, prefix=()):
    for name, value in table.items():
        yield (*prefix, name)
        if isinstance(value, dict):
            yield from _paths(value, (*prefix, name))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_config(folder, fake, data):
    original = json.loads(json.dumps(_fuzzed_once(folder)))
    for path in data.draw(st.lists(st.sampled_from(sorted(_paths(original))), min_size=1, max_size=3)):
        table = original
        for name in path[:-1]:
            table = table.get(name) if isinstance(table, dict) else None
        if isinstance(table, dict):
            if data.draw(st.booleans()):
                table.pop(path[-1], None)
            else:
                table[path[-1]] = data.draw(_JSON)
    (folder / "config.json").write_text(json.dumps(original))
    with contextlib.suppress(TrtbenchError):
        engine = Engine.from_dir(folder, builder=fake())
        assert repr(engine)
        assert engine._repr_html_()
        assert engine.build_report


_ORIGINALS: dict[Path, dict] = {}


def _fuzzed_once(folder: Path) -> dict:
    return _ORIGINALS.setdefault(folder, json.loads((folder / "config.json").read_text()))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_at_all_as_config(folder, fake, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(TrtbenchError):
        Engine.from_dir(folder, builder=fake())


def test_save_from_the_cache_links_and_elsewhere_copies(checkpoint_dir, fake, tmp_path):
    cached = build(checkpoint_dir, builder=fake())
    first = cached.save(tmp_path / "first")
    second = first.save(tmp_path / "second")
    assert "Hard links" in first.placement
    assert second.placement == "Copied."
    assert (tmp_path / "second" / "rank0.engine").stat().st_nlink == 1
    for folder in ("first", "second"):
        assert Engine.from_dir(tmp_path / folder, builder=fake()).config == cached.config
    assert second.executor().content == cached.executor().content


def test_save_keeps_what_is_there(folder, fake, tmp_path):
    engine = Engine.from_dir(folder, builder=fake())
    assert engine.save(folder) is engine
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StorageError):
            engine.save(tmp_path / "other", overwrite=overwrite)
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"
    engine.save(tmp_path / "copy")
    with pytest.raises(StorageError, match="not empty"):
        engine.save(tmp_path / "copy")
    engine.save(tmp_path / "copy", overwrite=True)


def test_copied_by_hand(folder, fake, tmp_path):
    shutil.copytree(folder, tmp_path / "by hand")
    Engine.from_dir(tmp_path / "by hand", builder=fake())


def test_damaged_cache_entry_is_discarded_and_built_again(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    cached = build(checkpoint_dir, builder=fake(mark=str(mark)))
    for damage in ("flip", "truncate", "config", "config-gone", "foreign"):
        target = cached.directory / ("config.json" if damage.startswith(("config", "foreign")) else "rank0.engine")
        content = target.read_bytes()
        target.unlink()
        if damage == "flip":
            target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif damage == "truncate":
            target.write_bytes(content[:-7])
        elif damage == "config":
            target.write_bytes(b"{ half")
        elif damage == "foreign":
            target.write_text(json.dumps({**json.loads(content), "key": "xxh3_128:of another"}))
        events = []
        again = build(checkpoint_dir, builder=fake(mark=str(mark)), on_event=events.append)
        assert not again.from_cache, damage
        assert any("was damaged and has been removed" in event.text for event in events), damage
        assert not any("damaged" in note for note in again.config.notes)
        Engine.from_dir(again.directory, builder=fake())
    assert len(mark.read_text().split()) == 6


def test_edit_through_a_link_is_seen(checkpoint_dir, fake, tmp_path):
    """An edit in place of a linked output damages the cache's copy too: neither is taken for whole."""
    engine = build(checkpoint_dir, output_dir=tmp_path / "engine", builder=fake())
    (engine.directory / "rank0.engine").chmod(0o644)
    with open(engine.directory / "rank0.engine", "r+b") as handle:
        handle.write(b"EDIT")
    with pytest.raises(EngineError, match="has changed"):
        Engine.from_dir(tmp_path / "engine", builder=fake())
    assert not build(checkpoint_dir, builder=fake()).from_cache
    assert home_dir().is_dir()


def test_every_field_is_documented(folder):
    text = (Path(__file__).resolve().parents[2] / "docs" / "engine-format.md").read_text()
    assert [name for name in json.loads((folder / "config.json").read_text()) if f"`{name}`" not in text] == []


def test_verified_by_the_load(folder, fake):
    whole = (folder / "rank0.engine").read_bytes()
    engine = Engine.from_dir(folder, verify="load", builder=fake())
    assert engine.executor().content == whole
    (folder / "rank0.engine").unlink()
    (folder / "rank0.engine").write_bytes(whole[::-1])
    opened = Engine.from_dir(folder, verify="load", builder=fake())  # not yet refused
    for kept in (engine, opened, opened.with_builder(fake())):
        with pytest.raises(EngineError, match=r"'rank0.engine' has changed since it was built"):
            kept.executor()
    saved = opened.save(folder.with_name("saved"))
    with pytest.raises(EngineError, match=r"'rank0.engine' has changed since it was built"):
        saved.executor()


def test_what_is_not_loaded_is_verified_first(folder, fake):
    side = folder / "rank0.side"
    content = side.read_bytes()
    side.unlink()
    side.write_bytes(content[::-1])
    with pytest.raises(EngineError, match=r"'rank0.side' has changed"):
        Engine.from_dir(folder, verify="load", builder=fake())
    side.unlink()
    side.write_bytes(content[:-1])
    with pytest.raises(EngineError, match=r"'rank0.side' is truncated"):
        Engine.from_dir(folder, verify="load", builder=fake())


def test_backend_that_verifies_what_it_reads(folder, fake):
    class Verifying(type(fake())):
        verifies_on_load = True

        def load(self, engine_dir, rank, engine_config, *, device=None, digest=None):
            return digest

    recorded = read_engine_config(folder).files["rank0.engine"].digest
    assert Engine.from_dir(folder, verify="load", builder=Verifying()).executor() == recorded
    assert Engine.from_dir(folder, builder=Verifying()).executor() is None  # verified already
    # A folder of an earlier build has a digest of the whole file, which cannot be taken by parts.
    files = json.loads((folder / "config.json").read_text())["files"]
    older = {**files, "rank0.engine": {**files["rank0.engine"], "digest": digest_of_file(folder / "rank0.engine")}}
    change_config(folder, files=older)
    assert Engine.from_dir(folder, verify="load", builder=Verifying()).executor() is None
    older["rank0.engine"]["digest"] = "xxh3_128:0"
    change_config(folder, files=older)
    with pytest.raises(EngineError, match=r"'rank0.engine' has changed"):
        Engine.from_dir(folder, verify="load", builder=Verifying()).executor()
