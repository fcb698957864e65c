"""Nothing half-written is ever taken for whole: killed writers, full disks, second writers, odd names."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab import storage
from trtbench_lab.errors import FolderInUseError, StorageError
from trtbench_lab.storage import (
    digest_of_file,
    digest_of_json,
    folder_lock,
    home_dir,
    is_abandoned,
    is_partial,
    staged_file,
    staged_folder,
    write_json,
)

ODD_NAMES = ["engine", "with space", "Größe-模型", "v[1]*?", "-dash", "tick'quote\"", ".hidden"]


@contextmanager
def child(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run `code` in another Python and wait for its first line of output; it is killed at the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *args]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert started.stdout is not None
        assert started.stdout.readline().strip() == "ready"
        yield started
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not is_partial(path))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_folder_appears_whole(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with staged_folder(target) as staging:
        (staging / "a").write_text("1")
        assert not target.exists()
        assert is_partial(staging)
    assert (target / "a").read_text() == "1"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("fault", [ValueError("no"), KeyboardInterrupt()])
def test_failed_body_leaves_nothing(tmp_path: Path, fault: BaseException) -> None:
    def fail(staging: Path) -> None:
        (staging / "a").write_text("1")
        raise fault

    with pytest.raises(type(fault)), staged_folder(tmp_path / "x") as staging:
        fail(staging)
    assert os.listdir(tmp_path) == []


def test_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(StorageError, match="overwrite=True"), staged_folder(target):
        pytest.fail("the body must not run")
    assert (target / "old").read_text() == "old"


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with staged_folder(tmp_path / "x") as staging:
        (staging / "a").write_text("1")
    assert visible(tmp_path / "x") == ["a"]


@pytest.fixture(params=["exchange", "two renames"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace folders by the one-step swap and by the two renames that other systems need."""
    if request.param == "two renames":
        monkeypatch.setattr(storage, "_exchange", lambda *_: False)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("old", ["folder", "file"])
def test_overwrite_replaces_as_a_whole(tmp_path: Path, old: str) -> None:
    target = tmp_path / "x"
    if old == "folder":
        target.mkdir()
        (target / "stale").write_text("stale")
    else:
        target.write_text("stale")
    with staged_folder(target, overwrite=True) as staging:
        (staging / "new").write_text("new")
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(target) == ["new"]


@pytest.mark.usefixtures("both_ways")
def test_overwrite_that_fails_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(FileNotFoundError), staged_folder(target, overwrite=True) as staging:
        (staging / "new").write_bytes((tmp_path / "none").read_bytes())
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(target) == ["old"]


def test_second_rename_that_fails_gives_the_old_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "old").write_text("old")
    monkeypatch.setattr(storage, "_exchange", lambda *_: False)
    rename, calls = os.rename, []

    def second_fails(source: Path, goal: Path) -> None:
        calls.append(goal)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, goal)

    monkeypatch.setattr(storage.os, "rename", second_fails)
    with pytest.raises(StorageError), staged_folder(target, overwrite=True) as staging:
        (staging / "new").write_text("new")
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(target) == ["old"]


KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from trtbench_lab import storage
storage._exchange = lambda *_: False
rename = os.rename
def first_only(source, goal):
    rename(source, goal)
    print("ready", flush=True)
    signal.pause()
storage.os.rename = first_only
with storage.staged_folder(Path(sys.argv[1]), overwrite=True) as staging:
    (staging / "new").write_text("new")
"""


def test_killed_between_two_renames_the_next_writer_gives_the_old_back(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "old").write_text("old")
    with child(KILLED_BETWEEN_RENAMES, str(target)):
        pass
    assert visible(tmp_path) == []
    with staged_file(target.with_name("another")) as staging:  # of no concern to another target
        staging.write_text("")
    assert visible(tmp_path) == ["another"]
    with pytest.raises(StorageError), staged_folder(target):
        pytest.fail("the folder that is back must not be overwritten unasked")
    assert os.listdir(target) == ["old"]
    assert visible(tmp_path) == ["another", "x"]


KILLED_WHILE_WRITING = """
import signal, sys
from pathlib import Path
from trtbench_lab.storage import staged_folder
with staged_folder(Path(sys.argv[1])) as staging:
    (staging / "config.json").write_text("{}")
    print("ready", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("name", ["x", "v[1]*?"])
def test_killed_writer_leaves_nothing_that_loads_and_the_next_sweeps_it(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with child(KILLED_WHILE_WRITING, str(target)) as writer:
        leftover = next(path for path in tmp_path.iterdir())
        assert is_partial(leftover)
        assert not is_abandoned(leftover)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert visible(tmp_path) == []
    assert is_abandoned(leftover)
    with staged_folder(target) as staging:
        assert not leftover.exists()
        (staging / "a").write_text("1")
    assert os.listdir(tmp_path) == [name]


def test_running_writers_leftover_is_not_swept(tmp_path: Path) -> None:
    with child(KILLED_WHILE_WRITING, str(tmp_path / "x")):
        with staged_folder(tmp_path / "x") as staging:
            (staging / "a").write_text("1")
        assert len([path for path in tmp_path.iterdir() if is_partial(path)]) == 1


def test_leftover_of_another_machine_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with child(KILLED_WHILE_WRITING, str(tmp_path / "x")):
        pass
    monkeypatch.setattr(storage.socket, "gethostname", lambda: "another-node")
    with staged_folder(tmp_path / "x") as staging:
        (staging / "a").write_text("1")
    assert len([path for path in tmp_path.iterdir() if is_partial(path)]) == 1


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; where mounting is not allowed, writes fail by a limit on the size of files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if mounted:
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, before[1]))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_full_disk_is_said_and_leaves_nothing(tiny_disk: Path) -> None:
    with pytest.raises(StorageError) as caught, staged_folder(tiny_disk / "engine") as staging:
        (staging / "rank0.engine").write_bytes(bytes(1 << 20))
    assert os.listdir(tiny_disk) == []
    assert str(tiny_disk / "engine") in str(caught.value)


def test_full_disk_keeps_the_old_file(tiny_disk: Path) -> None:
    target = tiny_disk / "results.json"
    write_json(target, {"a": 1})
    with pytest.raises(StorageError):
        write_json(target, {"a": "x" * (1 << 20)})
    assert json.loads(target.read_text()) == {"a": 1}
    assert os.listdir(tiny_disk) == ["results.json"]


def test_full_disk_has_its_own_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk is full") as caught, staged_folder(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "Free some disk space" in str(caught.value)


def test_a_fault_of_reading_is_not_called_a_fault_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "x"):
        (tmp_path / "a source that is not there").read_bytes()
    with pytest.raises(ConnectionResetError), staged_file(tmp_path / "y"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    assert os.listdir(tmp_path) == []


def test_no_permission_has_its_own_sentence() -> None:
    error = storage.storage_error(PermissionError(errno.EACCES, "Permission denied"), "/x", "write the file")
    assert str(error) == "/x: No permission to write the file.\n  → Choose a folder you may write to."


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), staged_folder(tmp_path / "file" / "x"):
        pass
    with pytest.raises(StorageError):
        write_json(tmp_path / "file" / "x.json", {})
    with pytest.raises(StorageError), folder_lock(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize("name", ODD_NAMES)
def test_file_is_replaced_in_one_step(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    target.write_text("old")
    with staged_file(target) as staging:
        staging.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == [name]


def test_threads_writing_one_file_never_mix(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    payloads = [{"writer": i, "data": str(i) * 20000} for i in range(4)]

    def write_often(payload: dict[str, object]) -> None:
        for _ in range(20):
            write_json(target, payload)

    threads = [threading.Thread(target=write_often, args=(payload,)) for payload in payloads]
    write_json(target, payloads[0])
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        seen.append(json.loads(target.read_text()))
    assert all(payload in payloads for payload in seen)
    assert os.listdir(tmp_path) == ["x.json"]


def test_json_with_undecodable_path_is_valid(tmp_path: Path) -> None:
    name = os.fsdecode(b"weights-\xff")
    write_json(tmp_path / "x.json", {"file": name, "größe": "模型"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"file": name, "größe": "模型"}
    assert "größe" in text


HOLDER = """
import signal, sys
from trtbench_lab.storage import folder_lock
with folder_lock(sys.argv[1]):
    print("ready", flush=True)
    signal.pause()
"""


def test_lock_held_by_another_process_names_it_and_ends_with_it(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    with child(HOLDER, str(target)) as holder:
        with pytest.raises(FolderInUseError, match=f"pid {holder.pid}"), folder_lock(target):
            pytest.fail("two writers at once")
        holder.kill()
        holder.wait()
        with folder_lock(target, timeout_s=10):
            pass
    assert os.listdir(tmp_path) == []


def test_lock_waits_for_its_holder(tmp_path: Path) -> None:
    with child(HOLDER, str(tmp_path / "engine")) as holder:
        threading.Timer(0.3, holder.kill).start()
        with folder_lock(tmp_path / "engine", timeout_s=30):
            assert holder.wait(timeout=10) == -signal.SIGKILL


def test_lock_of_this_very_process_is_told_apart(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "x"):
        second = folder_lock(tmp_path / "x")
        with pytest.raises(FolderInUseError, match="This very process"):
            second.__enter__()


COUNTER = """
import sys
from pathlib import Path
from trtbench_lab.storage import folder_lock
print("ready", flush=True)
target = Path(sys.argv[1])
for _ in range(40):
    with folder_lock(target, timeout_s=60):
        number = int(target.read_text())
        target.write_text(str(number + 1))
"""


def test_lock_excludes(tmp_path: Path) -> None:
    """Three processes count in one file; the lock file is unlinked between turns, which must not let two in."""
    target = tmp_path / "count"
    target.write_text("0")
    with (
        child(COUNTER, str(target)) as first,
        child(COUNTER, str(target)) as second,
        child(COUNTER, str(target)) as third,
    ):
        assert [process.wait(timeout=120) for process in (first, second, third)] == [0, 0, 0]
    assert target.read_text() == "120"


@given(st.binary(max_size=300))
def test_digest_of_file_is_xxh3(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("digest") / "x"
    path.write_bytes(content)
    assert digest_of_file(path, chunk_bytes=64) == f"xxh3_128:{xxhash.xxh3_128_hexdigest(content)}"


def test_digest_of_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="read the file"):
        digest_of_file(tmp_path / "none")


def test_digest_of_json_ignores_key_order_and_sees_values() -> None:
    assert digest_of_json({"a": 1, "b": [1, 2]}) == digest_of_json({"b": [1, 2], "a": 1})
    assert digest_of_json({"a": 1}) != digest_of_json({"a": 2})
    assert digest_of_json({"a": 1}) != digest_of_json({"a": "1"})
    assert digest_of_json(os.fsdecode(b"\xff")).startswith("xxh3_128:")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TRTBENCH_HOME": "/data/cache"}, "/data/cache"),
        ({"TRTBENCH_HOME": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/trtbench-lab"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/ada"}, "/home/ada/.cache/trtbench-lab"),
        ({"TRTBENCH_HOME": "~/lab", "HOME": "/home/ada"}, "/home/ada/lab"),
    ],
)
def test_home_dir(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("TRTBENCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert home_dir() == Path(expected)
