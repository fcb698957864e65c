"""A build that is cancelled, late, killed, crashed, out of disk, or not alone: clear errors, and nothing half-made."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tests.engine.conftest import write_tiny_checkpoint
from tests.engine.fakes import MODES, FakeBuilder

from trtbench_lab.engine import Engine, build, start_build
from trtbench_lab.engine.logs import SEVERITIES
from trtbench_lab.errors import (
    BuildCancelled,
    BuildError,
    CheckpointError,
    EngineError,
    FolderInUseError,
    QuantizationError,
    StorageError,
)
from trtbench_lab.storage import home_dir

ROOT = Path(__file__).resolve().parents[2]


def leftovers(*folders: Path) -> list[Path]:
    """Everything that a stopped build must not leave: staging folders, engines, scratch checkpoints."""
    found = []
    for folder in (home_dir() / "engines", home_dir() / "scratch", *folders):
        found += [path for path in folder.glob("*") if not path.name.endswith(".lock")] if folder.is_dir() else []
        found += [path for path in folder.glob(".*") if "partial" in path.name] if folder.is_dir() else []
    return found


def wait_until(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether a process is dead; an unreaped one (a container without init) counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def worker_pid(job) -> int:
    """Process id of the build's worker, once it runs."""
    for child in psutil.Process().children():
        if "trtbench_lab.engine.worker" in " ".join(child.cmdline()):
            return child.pid
    raise AssertionError("no worker runs")


@pytest.mark.parametrize("mode", [{"slow": 60}, {"deaf": 60}, {"hold_lock": 60}], ids=["polite", "deaf", "holds-lock"])
def test_cancel_within_seconds(checkpoint_dir, fake, tmp_path, mode):
    job = start_build(checkpoint_dir, output_dir=tmp_path / "out" / "engine", builder=fake(half=1000, **mode))
    wait_until(lambda: job.phase.startswith(("tune", "deaf", "native")))
    pid = worker_pid(job)
    started = time.monotonic()
    job.cancel()
    assert time.monotonic() - started < 5
    assert job.done
    assert job.state == "cancelled"
    with pytest.raises(BuildCancelled, match="cancelled"):
        job.wait()
    wait_until(lambda: is_gone(pid))
    assert leftovers(tmp_path / "out") == []
    job.cancel()  # of an ended build: nothing happens
    assert job.state == "cancelled"


def test_helpers_of_a_cancelled_build_end_too(checkpoint_dir, fake, tmp_path):
    pid_file = tmp_path / "helper"
    job = start_build(checkpoint_dir, builder=fake(helper=str(pid_file), deaf=60))
    wait_until(lambda: pid_file.exists() and pid_file.read_text())
    job.cancel()
    wait_until(lambda: is_gone(int(pid_file.read_text())))


def test_helpers_of_a_finished_build_end_too(checkpoint_dir, fake, tmp_path):
    pid_file = tmp_path / "helper"
    build(checkpoint_dir, builder=fake(helper=str(pid_file)))
    wait_until(lambda: is_gone(int(pid_file.read_text())))


def test_timeout(checkpoint_dir, fake, tmp_path):
    with pytest.raises(BuildCancelled, match=r"ran out of its time of 1 s in the phase '"):
        build(checkpoint_dir, output_dir=tmp_path / "engine", timeout_s=1, builder=fake(slow=60))
    assert leftovers() == []
    assert not (tmp_path / "engine").exists()


def test_waiting_for_a_job_has_its_own_limit(checkpoint_dir, fake):
    job = start_build(checkpoint_dir, builder=fake(slow=60))
    with pytest.raises(BuildError, match=r"still running after 0\.2 s"):
        job.wait(timeout_s=0.2)
    assert not job.done
    job.cancel()


def test_keyboard_interrupt_cancels_cleanly(checkpoint_dir, fake, tmp_path):
    main_thread = threading.main_thread().ident
    builder = fake(slow=60)
    pids = []

    def interrupt(event):
        if event.text == "tune kernels" and not pids:
            pids.append(worker_pid(None))
            signal.pthread_kill(main_thread, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(checkpoint_dir, output_dir=tmp_path / "engine", on_event=interrupt, builder=builder)
    assert leftovers(tmp_path) == []
    wait_until(lambda: is_gone(pids[0]))


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ({"crash": "SIGKILL"}, ["signal 9", "SIGKILL", "Somebody ended it from outside"]),
        ({"crash": "SIGSEGV"}, ["signal 11", "SIGSEGV", "segmentation fault", "Native code failed"]),
        ({"crash": "SIGABRT"}, ["signal 6", "SIGABRT"]),
        ({"crash": "SIGBUS"}, ["signal 7", "SIGBUS", "disk is full"]),
        ({"exit": 3}, ["ended with status 3"]),
        ({"no_engine": "exit"}, ["ended with status 0 before it had finished"]),
    ],
    ids=["kill", "segv", "abort", "bus", "exit-3", "exit-0"],
)
def test_dead_worker(checkpoint_dir, fake, tmp_path, mode, words):
    with pytest.raises(BuildError) as caught:
        build(checkpoint_dir, output_dir=tmp_path / "engine", builder=fake(half=100, **mode))
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "Nothing half-made was left behind" in text
    if "crash" in mode:
        assert "phase 'crash'" in text
        assert "last words of the library" in caught.value.details
    if mode.get("crash") == "SIGSEGV":
        assert "Segmentation fault" in caught.value.details
        assert "fakes.py" in caught.value.details  # the Python stack at the crash
    assert leftovers(tmp_path) == []


def test_killed_worker_from_outside(checkpoint_dir, fake):
    job = start_build(checkpoint_dir, builder=fake(slow=60))
    wait_until(lambda: job.phase.startswith("tune"))
    os.kill(worker_pid(job), signal.SIGKILL)
    with pytest.raises(BuildError, match="signal 9"):
        job.wait(5)
    assert job.state == "failed"
    assert job.phase == ""
    assert [event.text for event in job.events() if event.state == "failed"] == ["tune kernels"]
    assert leftovers() == []


def test_errors_of_ours_come_back_whole(checkpoint_dir, fake):
    with pytest.raises(QuantizationError) as caught:
        build(checkpoint_dir, builder=fake(raises="quantization"))
    error = caught.value
    assert (error.what, error.where, error.remedy, error.details) == (
        "Group 7 does not divide 64.",
        "layer 0",
        "Use 32.",
        "more",
    )


def test_errors_of_libraries_are_translated(checkpoint_dir, fake):
    with pytest.raises(BuildError, match="RuntimeError: invalid node"):
        build(checkpoint_dir, builder=fake(raises="invalid node\nsecond line"))
    with pytest.raises(StorageError, match="disk is full"):
        build(checkpoint_dir, builder=fake(raises="disk"))
    with pytest.raises(StorageError, match="disk is full"):
        build(checkpoint_dir, builder=fake(raises="[ErrorCode] write failed: No space left on device"))
    with pytest.raises(BuildError, match="memory was not enough"):
        build(checkpoint_dir, builder=fake(raises="std::bad_alloc"))


def test_first_failing_rank_ends_the_others(two_rank_checkpoint_dir, fake, monkeypatch):
    from trtbench_lab.engine import workload
    from trtbench_lab.specs import BuildConfig

    monkeypatch.setattr(workload, "machine_fingerprint", lambda: {"cpu_cores_usable": 2, "gpus": []})
    started = time.monotonic()
    job = start_build(two_rank_checkpoint_dir, BuildConfig(parallel_build=True), builder=fake(slow=30))
    wait_until(lambda: sum(event.text == "tune kernels" for event in job.events()) == 2)
    pids = [child.pid for child in psutil.Process().children() if "worker" in " ".join(child.cmdline())]
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(BuildError, match="signal 9"):
        job.wait(60)
    assert time.monotonic() - started < 20
    assert all(is_gone(pid) for pid in pids)


@pytest.fixture
def small_disk(tmp_path):
    """A folder that takes 2 MiB: a file system of that size, or where mounting is not allowed, a limit on files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode == 0:
        yield disk
        subprocess.run(["umount", str(disk)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))
    yield disk
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk(checkpoint_dir, fake, small_disk, monkeypatch):
    monkeypatch.setenv("TRTBENCH_HOME", str(small_disk / "home"))
    with pytest.raises(StorageError, match=r"disk is full|File too large") as caught:
        build(checkpoint_dir, builder=fake(write=8))
    assert "partial" not in str(caught.value)
    assert "TRTBENCH_HOME" in caught.value.remedy
    assert leftovers() == []
    with pytest.raises(StorageError, match=r"disk is full|File too large"):
        build(checkpoint_dir, output_dir=small_disk / "engine", use_cache=False, builder=fake(write=8))
    assert [path.name for path in small_disk.iterdir()] == ["home"]


def test_weights_that_changed_since_they_were_converted(fake, tmp_path):
    """The cache must not give the engine of damaged weights to whoever comes with the undamaged ones."""
    good, bad = write_tiny_checkpoint(tmp_path / "good", seed=9), write_tiny_checkpoint(tmp_path / "bad", seed=9)
    content = bytearray((bad / "rank0.safetensors").read_bytes())
    content[-5] ^= 1
    (bad / "rank0.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or changed"):
        build(bad, builder=fake())
    assert leftovers() == []
    assert not build(good, builder=fake()).from_cache


def test_read_only_folder(checkpoint_dir, fake):
    # /proc takes no new folders from anyone, the superuser included.
    with pytest.raises(StorageError, match=r"No permission|Could not"):
        build(checkpoint_dir, output_dir="/proc/engine", builder=fake())


def test_noise_is_classified_and_kept(checkpoint_dir, fake):
    job = start_build(checkpoint_dir, builder=fake(noise=5000))
    job.wait()
    assert len(job.log_tail(10_000)) == 2000  # the newest ones; the file has them all
    texts = (job.wait().directory / "build.log").read_text().splitlines()
    assert sum("line " in text for text in texts) == 5000
    assert any("π in a log: �" in text for text in texts)
    assert set(SEVERITIES) >= {line.severity for line in job.log_tail(100)}
    assert job.wait().build_report.errors == 1


def test_memory_high_water_is_seen(checkpoint_dir, fake):
    plain = start_build(checkpoint_dir, builder=fake(grow=0), use_cache=False)
    plain.wait()
    job = start_build(checkpoint_dir, builder=fake(grow=200), use_cache=False)
    engine = job.wait()
    # Over the libraries that the process loads in any case: 200 MiB, and up to as much again while they are copied.
    assert 190 << 20 < job.peak_bytes - plain.peak_bytes < 440 << 20
    assert engine.build_report.peak_bytes == job.peak_bytes
    assert job.resident_bytes == 0


class Owner:
    """Another process that builds with the fake builder in `modes`; forked, since importing torch takes seconds."""

    def __init__(self, checkpoint_dir: Path, modes: dict, *, output_dir: Path | None = None):
        context = multiprocessing.get_context("fork")
        self._said, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_own_a_build, args=(theirs, checkpoint_dir, modes, output_dir))
        self._process.start()
        theirs.close()
        self.pid = self._process.pid

    def wait_for(self, word: str) -> None:
        """Wait until an event of its build has `word` in it."""
        while self._said.poll(60):
            if word in self._said.recv():
                return
        raise AssertionError(f"the owner never said {word!r}")

    def kill(self) -> None:
        """Kill it as nobody can prevent, and reap it."""
        self._process.kill()
        self._process.join()

    def finish(self) -> int | None:
        """Wait for its own end and return its exit status."""
        self._process.join(60)
        return self._process.exitcode


def _own_a_build(said, checkpoint_dir, modes, output_dir):
    os.environ[MODES] = json.dumps(modes)
    start_build(
        checkpoint_dir, output_dir=output_dir, builder=FakeBuilder(), on_event=lambda event: said.send(event.text)
    ).wait()


@pytest.mark.parametrize("mode", [{"slow": 60}, {"hold_lock": 60}], ids=["python", "native-holds-lock"])
def test_killed_owner_takes_the_build_with_it(checkpoint_dir, fake, tmp_path, own_home, mode):
    pid_file = tmp_path / "helper"
    owner = Owner(checkpoint_dir, {"half": 1000, "helper": str(pid_file), **mode})
    owner.wait_for("tune kernels" if "slow" in mode else "holds the lock")
    children = psutil.Process(owner.pid).children(recursive=True)
    assert len(children) >= 3  # worker, watchdog, helper
    owner.kill()
    wait_until(lambda: all(is_gone(child.pid) for child in children))
    staged = [path for path in (own_home / "engines").glob(".*") if path.is_dir()]
    assert len(staged) == 1
    with pytest.raises(EngineError, match="never finished"):
        Engine.from_dir(staged[0], builder=fake())
    # The next build of the same inputs is not held up, and removes what the dead one has left.
    engine = build(checkpoint_dir, builder=fake())
    assert not engine.from_cache
    assert leftovers() == [engine.directory]


def test_owner_that_ends_by_itself_leaves_nothing(checkpoint_dir):
    code = (
        "import sys, time; from trtbench_lab.engine import start_build; from tests.engine.fakes import FakeBuilder;"
        "job = start_build(sys.argv[1], builder=FakeBuilder());"
        "\nwhile not job.phase.startswith('tune'): time.sleep(0.01)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", MODES: json.dumps({"slow": 60})}
    subprocess.run([sys.executable, "-c", code, str(checkpoint_dir)], env=environment, check=True, timeout=60)
    assert leftovers() == []


def test_two_processes_build_one_engine(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    modes = {"mark": str(mark), "slow": 1.5}
    owner = Owner(checkpoint_dir, modes)
    owner.wait_for("tune kernels")
    job = start_build(checkpoint_dir, output_dir=tmp_path / "engine", builder=fake(**modes))
    wait_until(lambda: job.state == "waiting" or job.done)
    engine = job.wait(30)
    assert owner.finish() == 0
    assert engine.from_cache
    assert len(mark.read_text().split()) == 1
    told = [event.text for event in job.events() if event.kind == "log"]
    assert any(str(owner.pid) in text and "Waiting for its engine" in text for text in told)


def test_while_another_process_builds(checkpoint_dir, fake, tmp_path):
    owner = Owner(checkpoint_dir, {"slow": 60}, output_dir=tmp_path / "engine")
    try:
        owner.wait_for("tune kernels")
        # The output folder is somebody else's: no waiting, since what he builds may be another engine.
        with pytest.raises(FolderInUseError, match=f"pid {owner.pid}"):
            build(checkpoint_dir, {"max_batch_size": 2}, tmp_path / "engine", builder=fake())
        # The same engine without that folder: wait for it, as long as one likes.
        job = start_build(checkpoint_dir, builder=fake())
        wait_until(lambda: job.state == "waiting")
        job.cancel()
        with pytest.raises(BuildCancelled):
            job.wait(60)
        with pytest.raises(BuildCancelled, match="ran out of its time"):
            build(checkpoint_dir, timeout_s=0.3, builder=fake())
        # The builder dies: the waiting one builds.
        job = start_build(checkpoint_dir, builder=fake())
        wait_until(lambda: job.state == "waiting")
    finally:
        owner.kill()
    assert not job.wait(30).from_cache


def test_threads_of_one_process_build_one_engine(checkpoint_dir, fake, tmp_path):
    mark = tmp_path / "mark"
    builder = fake(mark=str(mark), slow=0.5)
    jobs = [start_build(checkpoint_dir, builder=builder) for _ in range(3)]
    engines = [job.wait(30) for job in jobs]
    assert sorted(engine.from_cache for engine in engines) == [False, True, True]
    assert len(mark.read_text().split()) == 1


def test_slow_callback_does_not_slow_the_build(checkpoint_dir, fake):
    def slow(event):
        time.sleep(3)

    job = start_build(checkpoint_dir, on_event=slow, builder=fake(noise=2000))
    wait_until(lambda: job.done)
    assert sum(event.kind == "log" for event in job.events()) > 2000


def test_job_shows_itself(checkpoint_dir, fake):
    job = start_build(checkpoint_dir, builder=fake(slow=60))
    wait_until(lambda: job.phase.startswith("tune"))
    assert "tune kernels" in repr(job)
    assert "fake" in repr(job)
    job.cancel("Not needed any more <b>.")
    assert "Not needed any more &lt;b&gt;." in job._repr_html_()
    assert job.notes
