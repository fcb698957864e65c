"""The doctor says what is there and what to do, on sound and on broken machines, and never raises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.version import Version

from trtbench_lab.backends.registry import BACKENDS, choose_backend
from trtbench_lab.doctor import DoctorReport, DoctorRow, accelerators, examination, examine, machine, packages
from trtbench_lab.errors import SpecError
from trtbench_lab.results import ResultsDatabase

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def only(rows: Iterator[DoctorRow]) -> DoctorRow:
    """Return the one row of a check."""
    (row,) = rows
    return row


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, as far as the doctor can see; starts empty."""
    table: dict[str, str] = {}
    monkeypatch.setattr(packages, "installed_version", table.get)
    monkeypatch.setattr(accelerators, "installed_version", table.get)
    return table


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A PATH that holds nothing but the scripts that the test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


# The whole


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DoctorReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        return examine()


def test_every_component_is_looked_at(report: DoctorReport) -> None:
    components = [row.component for row in report.rows]
    expected = ["Python", "torch", "transformers", "onnx", "onnxruntime", "tensorrt", "MPI", "CUDA", "jupyterlab",
                "ipywidgets", "plotly", "cache folder", "disk", "results", "hub", "CPU", "CPU vectors", "memory",
                "threads", "backend auto", *(f"backend {name}" for name in BACKENDS)]  # fmt: skip
    assert set(expected) <= set(components)
    assert any(component.startswith("GPU") for component in components)
    assert len(components) == len(set(components))


def test_this_machine_is_seen_as_it_is(report: DoctorReport) -> None:
    assert report.usable_backends[0] == choose_backend().name
    assert torch.__version__.startswith(report.row("torch").found)  # the package's metadata may lack the build tag
    assert not [row for row in report.rows if row.found == "unknown"]


def test_every_row_that_is_wrong_says_what_to_do(report: DoctorReport) -> None:
    assert all(row.meaning.endswith(".") and not row.meaning.endswith("..") and row.found for row in report.rows)
    assert all(row.remedy for row in report.problems)


def test_views(report: DoctorReport) -> None:
    payload = json.loads(json.dumps(report.to_dict()))
    assert [row["component"] for row in payload["rows"]] == [row.component for row in report.rows]
    assert payload["ok"] is report.ok
    for row in report.rows:
        assert row.component in repr(report)
        assert row.component in report._repr_html_()
    assert report.row("Python").found.startswith(".".join(map(str, sys.version_info[:3])))
    with pytest.raises(KeyError):
        report.row("Pithon")


def test_html_is_escaped() -> None:
    made = DoctorReport((DoctorRow("x", "<script>", "ok", "a & b."),), ("torch",))
    assert "<script>" not in made._repr_html_()
    assert "&lt;script&gt;" in made._repr_html_()


@pytest.mark.parametrize(
    ("statuses", "usable", "ok", "title"),
    [
        (["ok", "missing"], ("torch",), True, "Ready: torch can build and run here."),
        (
            ["warning"],
            ("torch", "onnxruntime"),
            True,
            "Ready: torch and onnxruntime can build and run here, 1 warning.",
        ),
        (["error", "error"], ("torch",), False, "Something must be mended first: 2 errors."),
        (["ok"], (), False, "Something must be mended first"),
    ],
)
def test_verdict(statuses: list[str], usable: tuple[str, ...], ok: bool, title: str) -> None:
    made = DoctorReport(tuple(DoctorRow(str(i), "x", s, "y.") for i, s in enumerate(statuses)), usable)
    assert made.ok is ok
    assert title in repr(made)
    assert [row.status for row in made.problems] == [s for s in statuses if s in ("error", "warning")]


def test_one_backend_leaves_out_what_others_need() -> None:
    components = {row.component for row in examine("torch").rows}
    assert {"backend torch", "torch", "CUDA", "MPI"} <= components
    assert not components & {"backend onnxruntime", "onnxruntime", "tensorrt", "backend auto"}
    with pytest.raises(SpecError, match="Did you mean 'onnxruntime'"):
        examine("onnxruntim")


def test_a_check_that_fails_becomes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[DoctorRow]:
        yield DoctorRow("half", "x", "ok", "y.")
        raise OSError("the disk is gone\nand more")

    monkeypatch.setattr(examination, "_CHECKS", tuple((name, broken, None) for name, _, _ in examination._CHECKS))
    made = examine()
    failed = [row for row in made.rows if row.found == "unknown"]
    assert len(failed) == len(examination._CHECKS)
    assert "OSError: the disk is gone" in failed[0].meaning
    assert "and more" not in failed[0].meaning


EXAMINE_WITHOUT = """
import json, sys
from importlib import metadata
blocked = set(sys.argv[1].split(","))
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
real = metadata.version
def version(name):
    if name.replace("-", "_") in blocked:
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
import importlib.util
real_find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in blocked else real_find(name, package)
from trtbench_lab.doctor import examine
report = examine()
repr(report), report._repr_html_()
print(json.dumps(report.to_dict()))
"""


def examine_without(*blocked: str) -> dict[str, dict[str, str]]:
    """Examine in a process where these packages do not exist; return rows by component, and the verdict."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", EXAMINE_WITHOUT, ",".join(blocked)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    payload = json.loads(done.stdout)
    return {"": payload, **{row["component"]: row for row in payload["rows"]}}


def test_runs_without_any_extra() -> None:
    extras = "onnxruntime IPython ipykernel ipywidgets anywidget plotly pandas pyarrow jupyterlab mpi4py tensorrt"
    rows = examine_without(*extras.split())
    assert rows[""]["ok"] is True
    assert rows[""]["usable_backends"] == ["torch"]
    assert rows["onnxruntime"]["status"] == rows["jupyterlab"]["status"] == "missing"
    assert "pip install 'trtbench-lab[onnxruntime]'" in rows["onnxruntime"]["remedy"]
    assert rows["backend auto"]["found"] == "torch"


def test_runs_without_torch() -> None:
    rows = examine_without("torch")
    assert rows[""]["ok"] is False
    assert rows["torch"]["status"] == "error"
    assert "pip install 'torch>=2.11'" in rows["torch"]["remedy"]
    assert rows["CUDA"]["status"] == "error"
    assert rows["Python"]["status"] == "ok"


def test_runs_without_psutil_and_xxhash() -> None:
    rows = examine_without("psutil", "xxhash")
    assert rows["psutil"]["status"] == rows["xxhash"]["status"] == "error"
    assert rows["memory"]["found"] == "unknown"


def test_import_is_light() -> None:
    code = (
        "import sys, trtbench_lab.doctor; print([m for m in ('torch', 'numpy', 'onnx', 'IPython') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


# Packages


def test_bounds_are_those_of_the_project() -> None:
    stated: dict[str, tuple[str | None, str | None]] = {}
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    for line in (*PROJECT["dependencies"], *extras):
        requirement = Requirement(line)
        bounds = {s.operator: s.version for s in requirement.specifier}
        stated[requirement.name] = (bounds.get(">="), bounds.get("<"))
    base = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert {name: stated[name] for name in base} == packages.BASE
    assert {p.name: stated[p.name] for p in packages.OPTIONAL} == {p.name: p.bounds for p in packages.OPTIONAL}
    assert stated["onnxruntime"] == packages.ONNXRUNTIME_BOUNDS
    assert stated["tensorrt-cu13"] == packages.TENSORRT_BOUNDS
    python = {s.operator: s.version for s in Requirement(f"python{PROJECT['requires-python']}").specifier}
    assert (python[">="], python["<"]) == packages.PYTHON_BOUNDS


NUMBERS = st.lists(st.integers(0, 20), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


@given(NUMBERS, NUMBERS, st.none() | NUMBERS, st.sampled_from(["", "+cpu", "+cu130", ".post1"]))
def test_version_order_is_that_of_packaging(version: str, lowest: str, beyond: str | None, tag: str) -> None:
    expected = Version(version) >= Version(lowest) and (beyond is None or Version(version) < Version(beyond))
    assert packages.within(version + tag, (lowest, beyond)) == expected


def test_python_outside_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.sys, "version_info", (3, 10, 1, "final", 0))
    row = next(packages.check_python())
    assert (row.status, row.found.split()[0]) == ("warning", "3.10.1")
    assert row.remedy == "Use Python 3.11 or newer, below 3.14."


def test_base_package_absent_and_of_another_version(versions: dict[str, str]) -> None:
    versions.update({name: bounds[0] for name, bounds in packages.BASE.items()})
    assert {row.status for row in packages.check_base()} == {"ok"}
    del versions["safetensors"]
    versions["transformers"] = "6.0.1"
    rows = {row.component: row for row in packages.check_base()}
    assert (rows["safetensors"].status, rows["transformers"].status) == ("error", "warning")
    assert rows["transformers"].remedy == "Change it: pip install 'transformers>=5.17,<6'"
    assert "safetensors" not in rows["other base packages"].found


def test_optional_packages(versions: dict[str, str]) -> None:
    versions.update({"jupyterlab": "4.6.0", "plotly": "5.0"})
    rows = {row.component: row for row in packages.check_optional()}
    assert [rows[name].status for name in ("jupyterlab", "plotly", "pandas")] == ["ok", "warning", "missing"]


@pytest.mark.parametrize(
    ("installed", "module", "status", "part"),
    [
        ({}, None, "missing", "fastest on a CPU"),
        ({"onnxruntime": "1.31.1"}, OSError("libcudart.so.13: cannot open"), "warning", "does not load: libcudart"),
        ({"onnxruntime": "1.20.0"}, ["CPUExecutionProvider"], "warning", "1.30 or newer"),
        ({"onnxruntime-gpu": "1.31.0"}, ["CUDAExecutionProvider", "CPUExecutionProvider"], "ok", "CUDA, CPU"),
    ],
)
def test_onnxruntime(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], module: object,
    status: str, part: str,
) -> None:  # fmt: skip
    versions.update(installed)

    def load(name: str) -> SimpleNamespace:
        assert name == "onnxruntime"
        if isinstance(module, Exception):
            raise module
        return SimpleNamespace(get_available_providers=lambda: module)

    monkeypatch.setattr(packages.importlib, "import_module", load)
    row = only(packages.check_onnxruntime())
    assert row.status == status
    assert part in row.meaning


@pytest.mark.parametrize(
    ("installed", "fault", "status", "part"),
    [
        ({}, None, "missing", "only for TensorRT engines"),
        ({"tensorrt-cu13-bindings": "11.4.0.106"}, None, "ok", "load"),
        ({"tensorrt-cu12-bindings": "11.1.0.106", "tensorrt": "11.1.0.106"}, None, "ok", "load"),
        ({"tensorrt-cu13": "11.2.1.2"}, "ImportError: libnvinfer.so.11", "warning", "libnvinfer.so.11"),
        ({"tensorrt-cu13-bindings": "11.0.0.114"}, None, "warning", "11.1 or newer"),
        ({"tensorrt-cu12-bindings": "10.16.1.11"}, None, "warning", "11.1 or newer, below 12"),
        ({"tensorrt": "12.0"}, None, "warning", "below 12"),
        (
            {"tensorrt-cu13-bindings": "11.4.0.106", "tensorrt-cu12-bindings": "11.4.0.106"},
            None,
            "warning",
            "Two builds",
        ),
        ({"tensorrt-cu13-bindings": "11.4.0.106", "tensorrt-cu12-bindings": "10.1"}, None, "warning", "11.1 or newer"),
    ],
)
def test_tensorrt(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], fault: str | None,
    status: str, part: str,
) -> None:  # fmt: skip
    versions.update(installed)
    monkeypatch.setattr(packages, "_import_fault", lambda name: fault)
    row = only(packages.check_tensorrt())
    assert row.status == status
    assert part in row.meaning


def test_import_is_tried_in_another_process() -> None:
    assert packages._import_fault("json") is None
    assert packages._import_fault("no_such_module_here") == "ModuleNotFoundError: No module named 'no_such_module_here'"


# GPU, CUDA, MPI

TWO_GPUS = "echo 'NVIDIA H200, 9.0, 580.65, 143771'; echo 'Tesla T4, 7.5, 580.65, 15360'"


def test_gpus_of_the_driver(tools: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tools("nvidia-smi", TWO_GPUS)
    first, second = accelerators.check_gpus()
    assert first.found == "NVIDIA H200, 140 GiB, compute capability 9.0, driver 580.65"
    assert "FP8 is computed" in first.meaning
    assert "No FP8" in second.meaning
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every GPU" in list(accelerators.check_gpus())[2].meaning


@pytest.mark.parametrize(
    "script", ["echo 'NVIDIA-SMI has failed because it could not talk'; exit 9", "exit 1", "echo gibberish"]
)
def test_driver_that_does_not_answer(tools: Callable[[str, str], None], script: str) -> None:
    tools("nvidia-smi", script)
    row = only(accelerators.check_gpus())
    assert row.status == "warning"
    assert row.remedy


def test_no_gpu(tools: Callable[[str, str], None]) -> None:
    assert only(accelerators.check_gpus()).status == "missing"


@pytest.mark.parametrize(
    ("has_gpu", "built_for", "driver", "sees", "status", "part"),
    [
        (False, None, None, False, "ok", "nothing is lost"),
        (False, "13.0", None, False, "ok", "runs on the CPU"),
        (True, None, "13.0", False, "warning", "cannot use it"),
        (True, "13.0", "12.4", False, "error", "older than the CUDA"),
        (True, "12.8", "12.4", True, "ok", "sees 2"),
        (True, "12.8", "13.0", True, "ok", "sees 2"),
        (True, "12.8", "13.0", False, "warning", "does not see"),
        (True, "12.8", None, False, "warning", "does not see"),
    ],
)
def test_cuda_of_torch_and_driver(
    tools: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, has_gpu: bool, built_for: str | None,
    driver: str | None, sees: bool, status: str, part: str,
) -> None:  # fmt: skip
    if has_gpu:
        tools("nvidia-smi", TWO_GPUS)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(accelerators, "driver_cuda_version", lambda: driver)
    row = only(accelerators.check_cuda())
    assert row.status == status
    assert part in row.meaning


@pytest.mark.parametrize(("number", "text"), [(13000, "13.0"), (12040, "12.4"), (0, None)])
def test_driver_version_is_decoded(monkeypatch: pytest.MonkeyPatch, number: int, text: str | None) -> None:
    class Library:
        def __init__(self, name: str) -> None:
            if name != "libcuda.so.1":
                raise OSError(name)

        def cuDriverGetVersion(self, pointer: object) -> int:
            pointer._obj.value = number  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(accelerators.ctypes, "CDLL", Library)
    assert accelerators.driver_cuda_version() == text


@pytest.mark.parametrize(
    ("package", "launcher", "root", "status", "part"),
    [
        (None, None, False, "missing", "several ranks"),
        (None, "echo HYDRA build details:", False, "missing", "several ranks"),
        ("4.1.2", None, False, "warning", "cannot be started"),
        ("4.1.2", "echo 'mpiexec (Open MPI) 5.0.11'", True, "warning", "refuses to start ranks as root"),
        ("4.1.2", "echo 'mpiexec (OpenRTE) 4.1.6'", True, "warning", "refuses to start ranks as root"),
        ("4.1.2", "echo 'mpiexec (Open MPI) 5.0.11'", False, "ok", "can be started"),
        ("4.1.2", "echo HYDRA build details:", True, "ok", "can be started"),
        ("4.1.2", "exit 3", True, "ok", "can be started"),
    ],
)
def test_mpi(
    versions: dict[str, str], tools: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch,
    package: str | None, launcher: str | None, root: bool, status: str, part: str,
) -> None:  # fmt: skip
    monkeypatch.delenv("OMPI_ALLOW_RUN_AS_ROOT", raising=False)
    monkeypatch.setattr(accelerators.os, "geteuid", lambda: 0 if root else 1000)
    if package:
        versions["mpi4py"] = package
    if launcher:
        tools("mpiexec", launcher)
    row = only(accelerators.check_mpi())
    assert row.status == status
    assert part in row.meaning
    assert "build details" not in row.found  # what MPICH's launcher calls itself says nothing


# The machine


@pytest.mark.parametrize(
    ("files", "quota", "limit"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "2147483648"}, 1.5, 2**31),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({"memory/memory.limit_in_bytes": "1073741824"}, None, 2**30),
        ({"cpu.max": "", "memory.max": "nonsense"}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_containers(tmp_path: Path, files: dict[str, str], quota: float | None, limit: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine.cpu_quota(tmp_path) == quota
    assert machine.memory_limit(tmp_path) == limit


@pytest.mark.parametrize(
    ("flags", "status", "part"),
    [
        (["avx2", "avx512f", "avx512_vnni"], "ok", "run fastest"),
        (["asimd", "asimddp"], "ok", "run fastest"),
        (["avx2"], "ok", "gain less"),
        ([], "warning", "slow"),
    ],
)
def test_vector_flags(monkeypatch: pytest.MonkeyPatch, flags: list[str], status: str, part: str) -> None:
    monkeypatch.setattr(machine, "machine_fingerprint", lambda: {"cpu_flags": flags, "cpu_cores_usable": 4})
    _, row = machine.check_processor()
    assert row.status == status
    assert part in row.meaning


def test_quota_below_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_fingerprint", lambda: {"cpu_cores_usable": 64})
    monkeypatch.setattr(machine, "cpu_quota", lambda: 2.0)
    row, _ = machine.check_processor()
    assert (row.status, row.remedy) == ("warning", "Set OMP_NUM_THREADS=2.")


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(machine, "machine_fingerprint", lambda: {"cpu_cores_usable": 2})
    row = only(machine.check_threads())
    assert (row.status, "OMP_NUM_THREADS=2" in str(row.remedy)) == ("warning", True)


def test_little_memory_and_the_containers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: 2**31)
    row = only(machine.check_memory())
    assert row.status == "warning"
    assert "of 2.0 (the container's limit)" in row.found


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "file" / "home"))
    row = next(machine.check_storage())
    assert (row.component, row.status) == ("cache folder", "error")
    assert "TRTBENCH_HOME" in str(row.remedy)


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = machine.shutil.disk_usage("/")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage._replace(free=2**30))
    _, row = machine.check_storage()
    assert (row.status, row.found.startswith("1.0 GiB free")) == ("warning", True)


def test_looking_leaves_nothing_behind(own_home: Path) -> None:
    list(machine.check_storage())
    list(machine.check_results())
    assert list(own_home.iterdir()) == []


def test_results_database(own_home: Path) -> None:
    assert "None yet" in only(machine.check_results()).meaning
    ResultsDatabase().query(limit=1)
    assert only(machine.check_results()).meaning == "0 runs are kept."
    (own_home / "results.sqlite").write_bytes(b"this is no database, " * 100)
    row = only(machine.check_results())
    assert row.status == "error"
    assert row.remedy


def test_hub_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    row = only(machine.check_hub())
    assert (row.status, row.found) == ("ok", "https://mirror.example, a token is stored")
    assert "hf_secret" not in repr(row)
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    assert "not a web address" in only(machine.check_hub()).meaning
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "switches downloads off" in only(machine.check_hub()).meaning
