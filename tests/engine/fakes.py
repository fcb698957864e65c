"""A builder whose build can be told to be slow, deaf, noisy, wasteful or deadly, and a model in memory that is tiny."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trtbench_lab.backends.protocol import Availability, Resolution, TensorSpec, engine_file_name
from trtbench_lab.errors import QuantizationError

MODES = "FAKE_BUILDER"  # environment variable: JSON that the build process inherits


class FakeExecutor:
    """Enough of an executor to see which rank of which folder was loaded."""

    def __init__(self, engine_dir: Path, rank: int, config: Any, device: str | None):
        self.backend, self.device, self.config = "fake", device, config.pretrained_config
        self.io = (
            TensorSpec("input_ids", "input", "int64", ("B", "T")),
            TensorSpec("logits", "output", "float32", (1,)),
        )
        self.guards_writes = True
        self.content = (engine_dir / engine_file_name(rank)).read_bytes()

    def memory(self) -> dict[str, int]:
        return {"weights_bytes": len(self.content)}

    def close(self) -> None:
        self.content = b""


class FakeBuilder:
    """A builder of the protocol; what it does is read from the environment, so that the child process knows it too."""

    backend = "fake"

    def version(self) -> str:
        return os.environ.get("FAKE_VERSION", "fake 1.2")

    def available(self) -> Availability:
        return Availability(True)

    def machine_key(self) -> str:
        return os.environ.get("FAKE_MACHINE", "x86_64 fakevec2")

    def resolve(self, model_config: Any, build_config: Any) -> Resolution:
        resolved, notes = build_config.resolved(model_config)
        return Resolution(resolved, [*notes, "The fake backend computes nothing."])

    def build(self, checkpoint_dir: Path, rank: int, build_config: Any, output_dir: Path, report: Any) -> None:
        for mode, value in json.loads(os.environ.get(MODES, "{}")).items():
            getattr(self, f"_{mode}")(value, output_dir, report, rank)
        with report.phase("write the engine"):
            weights = (checkpoint_dir / f"rank{rank}.safetensors").read_bytes()
            (output_dir / engine_file_name(rank)).write_bytes(b"fake engine " + weights[-4096:])
            (output_dir / f"rank{rank}.side").write_text(f"pid {os.getpid()}")
        report.log("info", f"built rank {rank}")

    def load(self, engine_dir: Path, rank: int, engine_config: Any, *, device: str | None = None) -> FakeExecutor:
        return FakeExecutor(engine_dir, rank, engine_config, device)

    # ---- what can be asked for -------------------------------------------------------------------------------

    def _mark(self, path: str, output_dir: Path, report: Any, rank: int) -> None:
        """Say in a file that a build ran, with its process id."""
        with open(path, "a") as handle:
            handle.write(f"{os.getpid()}\n")

    def _half(self, value: int, output_dir: Path, report: Any, rank: int) -> None:
        """Leave an unfinished engine file before whatever comes next."""
        (output_dir / engine_file_name(rank)).write_bytes(b"\0" * value)

    def _slow(self, seconds: float, output_dir: Path, report: Any, rank: int) -> None:
        with report.phase("tune kernels"):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                report.check_cancelled()
                time.sleep(0.02)

    def _deaf(self, seconds: float, output_dir: Path, report: Any, rank: int) -> None:
        """Never look whether it is cancelled, and shrug off SIGTERM."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with report.phase("deaf native code"):
            time.sleep(seconds)

    def _hold_lock(self, seconds: int, output_dir: Path, report: Any, rank: int) -> None:
        """Sleep in C with the interpreter's lock held, as badly wrapped native code does."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with report.phase("native code that holds the lock"):
            ctypes.PyDLL(None).sleep(int(seconds))

    def _helper(self, pid_file: str, output_dir: Path, report: Any, rank: int) -> None:
        """Start a process of its own, as compilers do."""
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(pid_file).write_text(str(child.pid))

    def _noise(self, lines: int, output_dir: Path, report: Any, rank: int) -> None:
        with report.phase("noisy native code"):
            os.write(2, b"2026-01-31 12:00:00.1 [W:onnxruntime:, graph.cc:12 Fold] an unused initializer\n")
            os.write(1, b"[01/31/2026-12:00:00] [TRT] [E] no kernel fits\n")
            os.write(1, "π in a log: ".encode() + b"\xff and no end of line")
            os.write(1, b"\n")
            for index in range(lines):
                os.write(1, f"line {index}\n".encode())

    def _grow(self, megabytes: int, output_dir: Path, report: Any, rank: int) -> None:
        with report.phase("grow"):
            block = bytearray(os.urandom(1 << 20) * megabytes)
            time.sleep(0.7)
            del block

    def _crash(self, name: str, output_dir: Path, report: Any, rank: int) -> None:
        with report.phase("crash"):
            print("last words of the library", flush=True)
            if name == "SIGSEGV":
                faulthandler._sigsegv()  # type: ignore[attr-defined]
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(60)

    def _exit(self, status: int, output_dir: Path, report: Any, rank: int) -> None:
        os._exit(status)

    def _raises(self, text: str, output_dir: Path, report: Any, rank: int) -> None:
        with report.phase("fail"):
            if text == "quantization":
                raise QuantizationError(
                    "Group 7 does not divide 64.", where="layer 0", remedy="Use 32.", details="more"
                )
            if text == "disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output_dir / "weights.bin"))
            raise RuntimeError(text)

    def _write(self, megabytes: int, output_dir: Path, report: Any, rank: int) -> None:
        with report.phase("write much"), open(output_dir / "much.bin", "wb") as handle:
            for _ in range(megabytes):
                handle.write(b"\1" * (1 << 20))

    def _symlink(self, target: str, output_dir: Path, report: Any, rank: int) -> None:
        (output_dir / "weights.link").symlink_to(target)

    def _no_engine(self, value: Any, output_dir: Path, report: Any, rank: int) -> None:
        os._exit(0) if value == "exit" else None

    def _cancel_slowly(self, seconds: float, output_dir: Path, report: Any, rank: int) -> None:
        time.sleep(seconds)
        report.check_cancelled()
