"""Trials end in every way, and none of them takes the others along."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import pytest

from trtbench_lab.backends.tensorrt.conformance import verdicts
from trtbench_lab.backends.tensorrt.conformance.bundle import write_bundle
from trtbench_lab.backends.tensorrt.conformance.features import FEATURES, MODEL_ALGORITHMS, Feature, chosen_features
from trtbench_lab.backends.tensorrt.conformance.harness import Site, trial_folder, try_features
from trtbench_lab.backends.tensorrt.conformance.outcome import Outcome
from trtbench_lab.backends.tensorrt.conformance.verdicts import Machine, read_verdicts, store_outcomes, verdict_path
from trtbench_lab.doctor.conformance import run_conformance
from trtbench_lab.errors import SpecError

ROOT = Path(__file__).parents[4]
PROBES = "tests.backends.tensorrt.conformance.fake_probes:PROBES"
MACHINE = Machine("Imaginary GPU", 90, "580.65.06", "11.4.0.106")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "trials"
    folder.mkdir()
    return Site(MACHINE, 1, folder, PROBES)


def feature(probe: str, name: str = "", **changes) -> Feature:
    return Feature(**{"name": name or probe, "title": f"the {probe} probe", "probe": probe, **changes})


def test_every_ending_is_told_and_the_next_trial_goes_on(site):
    tried = [
        feature("crash"),
        feature("refuse"),
        feature("stumble"),
        feature("leave"),
        feature("compare", bound=0.01),
        feature("compare", "compare/worse", bound=0.01, arguments={"difference": 0.5}),
        feature("compare", "compare/nan", bound=0.01, arguments={"difference": float("nan")}),
        feature("report"),
        feature("compare", "newer", least_capability=100),
        feature("compare", "several", gpus=2),
    ]
    told = []
    outcomes = {one.feature: one for one in try_features(tried, site, lambda f, o: told.append((f.name, o is None)))}
    assert [name for name, before in told if before] == [name for name, before in told if not before]
    assert {name: one.status for name, one in outcomes.items()} == {
        "crash": "crashed",
        "refuse": "failed",
        "stumble": "failed",
        "leave": "failed",
        "compare": "passed",
        "compare/worse": "failed",
        "compare/nan": "failed",
        "report": "passed",
        "newer": "not run",
        "several": "not run",
    }
    assert "signal 11 (SIGSEGV)" in outcomes["crash"].reason
    assert outcomes["refuse"].reason == "TensorRT has no kernel for this head size."
    assert "ZeroDivisionError: a bug in a library" in outcomes["stumble"].reason
    assert "without a result" in outcomes["leave"].reason
    assert (outcomes["compare"].difference, outcomes["compare"].bound) == (0.001, 0.01)
    assert "differ from the float32 reference by 0.5" in outcomes["compare/worse"].reason
    assert outcomes["report"].facts == {"layers": 12}
    assert "needs compute capability 10.0, and Imaginary GPU has 9.0" in outcomes["newer"].reason
    assert "needs 2 GPUs, and 1 is visible" in outcomes["several"].reason
    assert "four pages of log" in (trial_folder(site.folder, "refuse") / "log.txt").read_text()


def test_a_hanging_trial_is_ended_with_all_that_it_started(site):
    (outcome,) = try_features([feature("hang", timeout_s=3.0)], site)
    assert outcome.status == "timed out"
    assert "3 s" in outcome.reason
    child = int((trial_folder(site.folder, "hang") / "child.txt").read_text())
    for _ in range(100):
        if not _runs(child):
            break
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_whole_run_stores_verdicts_and_writes_a_bundle(site, tmp_path):
    features = (feature("compare", "native/a", bound=0.01), feature("crash", "native/b"), feature("report", gpus=3))
    events = []
    report = run_conformance(bundle_dir=tmp_path, features=features, site=site, progress=events.append)
    assert not report.ok
    assert (report.count("passed"), report.count("crashed"), report.count("not run")) == (1, 1, 1)
    text = repr(report)
    assert "1 of 3 features pass, 1 do not, 1 could not be tried here." in text
    assert "TensorRT 11.4.0.106, Imaginary GPU, driver 580.65.06" in text
    assert "✗ crashed" in text
    assert "native/a" in report._repr_html_()
    assert report.to_dict()["outcomes"][0]["status"] == "passed"
    assert (events[-1].done, events[-1].total, events[-1].state) == (3, 3, "done")
    known = read_verdicts(MACHINE)
    assert set(known.outcomes) == {"native/a", "native/b"}  # what was not run is no verdict
    assert known.failure("native/b") is not None
    assert known.failure("native/a") is None
    with zipfile.ZipFile(report.bundle) as bundle:
        names = set(bundle.namelist())
        assert {"versions.json", "machine.json", "results.json"} <= names
        assert {f"native-a/{name}" for name in ("log.txt", "network.onnx", "rank0.inspector.json")} <= names
        assert "native-b/log.txt" in names
        assert b"Segmentation is near" in bundle.read("native-b/log.txt")
        assert os.path.expanduser("~") not in bundle.read("native-a/log.txt").decode()
        assert b'"python"' in bundle.read("versions.json")


def test_only_the_wanted_features_are_tried(site, tmp_path):
    features = (feature("report", "a/x"), feature("report", "a/y"), feature("report", "b"))
    report = run_conformance(["a"], bundle_dir=tmp_path, features=features, site=site)
    assert [one.feature for one in report.outcomes] == ["a/x", "a/y"]
    with pytest.raises(SpecError, match="no conformance feature 'native_atention'") as caught:
        chosen_features(["native_atention"])
    assert "native_attention" in caught.value.remedy


def test_large_files_stay_out_of_the_bundle(tmp_path, monkeypatch):
    from trtbench_lab.backends.tensorrt.conformance import bundle

    monkeypatch.setattr(bundle, "MOST_BYTES", 10)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "big.onnx").write_bytes(b"x" * 11)
    (tmp_path / "trial" / "rank0.engine").write_bytes(b"x")
    (tmp_path / "trial" / "small.json").write_text("{}")
    made = write_bundle(tmp_path / "bundle.zip", MACHINE, [], tmp_path)
    with zipfile.ZipFile(made) as opened:
        assert {name for name in opened.namelist() if "/" in name} == {"trial/small.json"}


# ---- the store ----------------------------------------------------------------------------


def test_a_newer_outcome_takes_the_place_of_an_older_one_and_others_stay():
    store_outcomes(MACHINE, [Outcome("a", "failed", "why"), Outcome("b", "passed")])
    store_outcomes(MACHINE, [Outcome("a", "passed")])
    known = read_verdicts(MACHINE)
    assert {name: one.status for name, one in known.outcomes.items()} == {"a": "passed", "b": "passed"}
    assert known.at


def test_verdicts_hold_for_one_gpu_driver_and_version():
    store_outcomes(MACHINE, [Outcome("a", "failed", "why")])
    for other in (
        Machine("Imaginary GPU", 90, "581.0", "11.4.0.106"),
        Machine("Imaginary GPU", 90, "580.65.06", "11.3.0.99"),
        Machine("Another GPU", 90, "580.65.06", "11.4.0.106"),
    ):
        assert read_verdicts(other).outcomes == {}
    assert verdicts.forget(MACHINE)
    assert not verdicts.forget(MACHINE)
    assert read_verdicts(MACHINE).outcomes == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other"}', '{"format": "trtbench-conformance-1"}'])
def test_a_damaged_file_says_nothing(content):
    store_outcomes(MACHINE, [Outcome("a", "failed", "why")])
    verdict_path(MACHINE).write_text(content)
    assert read_verdicts(MACHINE).outcomes == {}


# ---- the features ----------------------------------------------------------------------------


def test_the_features_cover_what_engines_may_rely_on():
    names = {one.name for one in FEATURES}
    assert len(names) == len(FEATURES)
    for kind in ("native_attention", "plugin_attention"):
        for dtype in ("float16", "bfloat16"):
            for head_size in (64, 96, 128):
                assert {f"{kind}/{dtype}/d{head_size}/{sharing}" for sharing in ("mha", "gqa", "mqa")} <= names
    assert {"refit", "strip_plan", "weight_streaming", "cuda_graphs", "collectives", "timing_cache"} <= names
    assert {"dual_profile", "two_engines", "weight_only_int8", "weight_only_int4"} <= names
    assert {"int8_matmul", "fp8_matmul", *MODEL_ALGORITHMS} <= names
    assert {"key_value_lengths/float16/d64", "plugin_cache/int8", "plugin_cache/fp8"} <= names


def test_every_feature_names_a_probe_and_arguments_that_it_takes():
    import inspect

    from trtbench_lab.backends.tensorrt.conformance.probes import PROBES as REAL
    from trtbench_lab.backends.tensorrt.conformance.probes.tiny import tiny_checkpoint

    models = set(inspect.signature(tiny_checkpoint).parameters)
    for one in FEATURES:
        parameters = inspect.signature(REAL[one.probe]).parameters
        taken = set(parameters) | (models if "model" in parameters else set())
        assert set(one.arguments) <= taken, one.name
