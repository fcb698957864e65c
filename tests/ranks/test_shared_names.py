"""Memory that ranks share leaves no name behind, and names that killed ranks have left do not meet a new world."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

from trtbench_lab.ranks.shared_names import PREFIX, forget_own_names, sweep_names


def named(folder: Path, name: str, age_s: float = 0.0) -> Path:
    path = folder / name
    path.write_bytes(b"\1" * mmap.PAGESIZE)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def mapped(path: Path) -> mmap.mmap:
    with open(path, "r+b") as handle:
        return mmap.mmap(handle.fileno(), 0)


def test_old_names_that_nobody_has_mapped_are_swept(tmp_path: Path) -> None:
    left, young = named(tmp_path, PREFIX + "1f_0", 600), named(tmp_path, PREFIX + "2f_0")
    used, others = named(tmp_path, PREFIX + "3f_0", 600), named(tmp_path, "ucx_shm_4f", 600)
    with mapped(used):
        assert sweep_names(tmp_path) == 1
        assert sorted(tmp_path.iterdir()) == sorted([young, used, others])
    assert sweep_names(tmp_path) == 1
    assert not left.exists()
    assert not used.exists()
    assert sweep_names(tmp_path / "not there") == 0


def test_a_name_goes_and_its_memory_stays(tmp_path: Path) -> None:
    own, other = named(tmp_path, PREFIX + "1f_0"), named(tmp_path, PREFIX + "2f_0")
    with mapped(own) as memory:
        forget_own_names(tmp_path)
        assert list(tmp_path.iterdir()) == [other]
        assert memory[0] == 1
        forget_own_names(tmp_path)  # nothing is left to forget
