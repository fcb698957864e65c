"""The guide without a browser: states that follow from choices, what it remembers, and one real step."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest

pytest.importorskip("anywidget")

from trtbench_lab import workbench
from trtbench_lab.benchmark.planner import plan
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.errors import SpecError
from trtbench_lab.specs import Gpu
from trtbench_lab.specs.requests import ConvertSpec
from trtbench_widgets.guide import Guide
from trtbench_widgets.path_costs import costs_ahead
from trtbench_widgets.path_state import INTERRUPTED, PathState
from trtbench_widgets.path_steps import BY_NAME, STEPS, with_all_before

from .messages import press

NAMES = [step.name for step in STEPS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "path"


def guide(folder):
    return Guide(folder, estimate=False)


def all_done(folder):
    """Return a path on which every step was done, as far as its records say."""
    state = PathState.open(folder)
    for name in NAMES:
        asked = state.request(name)
        output = getattr(asked[1], "output_dir", None) if asked else None
        if output:
            (folder / output).mkdir(parents=True, exist_ok=True)
        state.begin(name)
        state.finish(name, "done")
    return guide(folder)


def test_it_begins_with_the_whole_path_and_writes_nothing(folder):
    path = guide(folder)
    assert [step["name"] for step in path.steps] == [
        "model", "convert", "plugins", "quantization", "build", "run", "compare", "benchmark",
    ]  # fmt: skip
    assert set(path.states().values()) == {"not begun"}
    assert not folder.exists()


def test_every_step_has_lines_and_a_cost(folder):
    for step in guide(folder).steps:
        assert set(step["lines"]) == {"magic", "python", "shell"}
        assert step["cost"]
        assert step["what"]


def test_a_change_makes_stale_what_was_made_of_it_and_nothing_else(folder):
    path = all_done(folder)
    assert set(path.states().values()) == {"done"}
    path.choose("build", max_batch_size=4)
    stale = {name for name, state in path.states().items() if state == "stale"}
    assert stale == {"build", "run", "compare", "benchmark"}
    reasons = {step["name"]: step["reason"] for step in path.steps}
    assert "Its choices changed" in reasons["build"]
    assert "Build" in reasons["run"]
    path.choose("build", max_batch_size=8)
    assert set(path.states().values()) == {"done"}


@pytest.mark.parametrize(
    ("step", "change", "stale"),
    [
        ("model", {"source": "demo:llama"}, set(NAMES)),
        ("plugins", {"gemm_plugin": "float16"}, {"plugins", "build", "run", "compare", "benchmark"}),
        ("quantization", {"qformat": "int8_wo"}, {"quantization", "build", "run", "compare", "benchmark"}),
        ("run", {"prompt": "Once"}, {"run", "compare"}),
        ("benchmark", {"num_runs": 7}, {"benchmark"}),
    ],
)
def test_each_choice_reaches_as_far_as_it_should(folder, step, change, stale):
    path = all_done(folder)
    path.choose(step, **change)
    assert {name for name, state in path.states().items() if state != "done"} == stale


def test_an_output_that_is_gone_is_stale(folder):
    path = all_done(folder)
    (folder / "engine").rmdir()
    assert guide(folder).states()["build"] == "stale"
    assert path.states()["convert"] == "done"


def test_choices_and_states_are_found_again(folder):
    path = all_done(folder)
    path.choose("run", prompt="Once upon a time")
    press(path, "open", step="run")
    again = guide(folder)
    assert again.settings["run"]["prompt"] == "Once upon a time"
    assert again.current == "run"
    assert again.states() == path.states()


def test_a_kernel_that_ended_in_a_step_leaves_a_failure_with_its_reason(folder):
    state = PathState.open(folder)
    state.begin("build")
    step = next(step for step in guide(folder).steps if step["name"] == "build")
    assert (step["state"], step["reason"]) == ("failed", INTERRUPTED)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format_version": 99}', '{"format_version": 1, "settings": {"run": {"no": 1}}}']
)
def test_a_damaged_memory_is_said_or_passed_over_and_never_raised(folder, content):
    folder.mkdir(parents=True)
    (folder / "guide.json").write_text(content)
    path = guide(folder)
    assert set(path.states().values()) == {"not begun"}
    assert ("begins anew" in path.notice) == ("no" not in content)


def test_stored_choices_that_do_not_fit_are_left_out_and_said(folder):
    folder.mkdir(parents=True)
    stored = {"format_version": 1, "settings": {"build": {"max_batch_size": "many"}, "run": {"prompt": "Once"}}}
    (folder / "guide.json").write_text(json.dumps(stored))
    path = guide(folder)
    assert path.settings["build"]["max_batch_size"] == 8
    assert path.settings["run"]["prompt"] == "Once"
    assert "Build" in path.notice


def test_a_second_view_of_a_path_at_work_shows_the_same_and_can_cancel(folder, monkeypatch):
    began = threading.Event()

    def work(self, names):
        self._path.begin("model")
        self.running = "model"
        began.set()
        deadline = time.monotonic() + 60
        while not self._cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        self._path.finish("model", "done")
        self.running = ""

    monkeypatch.setattr(Guide, "_work", work)
    first = guide(folder)
    first.run("model")
    assert began.wait(60)
    second = guide(folder)
    assert second.states()["model"] == "running"
    with pytest.raises(SpecError, match="A step is running"):
        second.run("model")
    second.cancel()
    first._thread.join(60)
    assert second.states()["model"] == "done"


def test_wrong_choices_are_said_and_change_nothing(folder):
    path = guide(folder)
    press(path, "set", step="build", name="max_batch_size", value=0)
    assert "at least 1" in path.notice
    assert path.settings["build"]["max_batch_size"] == 8
    with pytest.raises(SpecError, match="no nonsense"):
        path.choose("build", nonsense=1)
    with pytest.raises(SpecError, match="no step"):
        path.choose("nonsense")


def test_a_conflict_of_plugins_stops_that_step_with_its_reason(folder):
    path = guide(folder)
    path.choose("plugins", gpt_attention_plugin="disable")
    conflicts = next(step for step in path.steps if step["name"] == "plugins")["conflicts"]
    press(path, "fix", step="plugins", changes=conflicts[0]["fixes"][0]["changes"])
    assert next(step for step in path.steps if step["name"] == "plugins")["conflicts"] == []


def test_presets_choose_what_the_specs_name(folder):
    path = guide(folder)
    for step in ("plugins", "quantization"):
        for preset in BY_NAME[step].presets:
            press(path, "preset", step=step, name=preset.name)
            for field, value in preset.changes.items():
                assert path.settings[step][field] == value, (step, preset.name, field)
            entry = next(one for one in path.steps if one["name"] == step)
            same = [one.name for one in BY_NAME[step].presets if one.changes == preset.changes]
            assert entry["preset"] in same
    path.choose("plugins", gemm_plugin="auto")
    assert next(one for one in path.steps if one["name"] == "plugins")["preset"] == ""
    press(path, "preset", step="run", name="fastest")
    assert "no preset" in path.notice


def test_a_quantized_cache_alone_is_a_quantized_checkpoint(folder):
    path = guide(folder)
    assert path._path.request("quantization") is None
    path.choose("quantization", kv_cache_dtype="int8")
    verb, spec = path._path.request("quantization")
    assert (verb, spec.qformat, spec.kv_cache_dtype) == ("quantize", "full_prec", "int8")
    assert path._path.request("build")[1].checkpoint_dir.endswith("quantized")


def test_it_looks_around_and_offers_what_it_finds(folder, tmp_path, monkeypatch):
    shutil.copytree(demo_model_dir("llama"), tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    path = guide(folder)
    assert (path.machine, path.found) == ("", [])
    path.look_around()
    assert path.machine
    assert [one["label"] for one in path.found] == ["./models/mine", "demo:gpt2", "demo:llama"]
    assert "LlamaForCausalLM" in path.found[0]["words"]
    press(path, "set", step="model", name="source", value=path.found[0]["source"])
    assert path._path.request("model")[1].model == str(tmp_path / "models" / "mine")


def test_the_rules_count_with_the_gpu_of_this_machine(folder, monkeypatch):
    monkeypatch.setattr("trtbench_widgets.guide.gpu_here", lambda: Gpu((8, 0), "A100"))
    path = guide(folder)
    path.choose("quantization", qformat="fp8")
    assert next(one for one in path.steps if one["name"] == "quantization")["conflicts"] == []
    path.look_around()
    found = next(one for one in path.steps if one["name"] == "quantization")["conflicts"]
    assert any("A100" in one["reason"] for one in found)


def test_steps_run_after_those_they_are_made_of():
    assert with_all_before("compare") == ["model", "convert", "plugins", "quantization", "build", "run", "compare"]
    assert with_all_before("convert") == ["model", "convert"]


def test_a_real_step_runs_in_a_process_of_its_own_and_a_wrong_one_says_why(folder):
    path = guide(folder)
    path.choose("model", source=str(folder / "nowhere"))
    path.run("model", wait=True)
    step = path.steps[0]
    assert step["state"] == "failed"
    assert "nowhere" in step["reason"]
    assert json.loads((folder / "guide.json").read_text())["records"]["model"]["state"] == "failed"
    assert path.running == ""


def test_it_reads_well_without_a_kernel(folder):
    data = guide(folder)._repr_mimebundle_()[0]
    assert "%trt_convert" in data["text/html"]
    assert "not begun" in data["text/plain"]


PLAN = {
    "download_bytes": 1 << 30, "checkpoint_bytes": 2 << 30, "engine_bytes": 3 << 30, "build_s": 40.0,
    "memory": [{"bytes": 5 << 30}], "predictions": [{"ttft_ms": 100.0, "itl_ms": 50.0}],
}  # fmt: skip


def test_costs_ahead_name_time_memory_and_disk(folder):
    settings = guide(folder).settings
    ahead = {name: ", ".join(words) for name, words in costs_ahead(settings, PLAN).items()}
    assert ahead["build"] == "about 40.0 s, at least 2 GiB of memory, 3 GiB of disk"
    assert "at least 1 GiB of disk" in ahead["convert"]  # in the source's own type
    answer_s = (100 * len(settings["run"]["prompt"].split()) / 512 + 50 * settings["run"]["max_new_tokens"]) / 1000
    assert ahead["run"].startswith(f"at least {answer_s:.1f} s of work after loading, 5 GiB of memory, no disk")
    assert ahead["compare"].startswith(
        f"at least {2 * answer_s:.1f} s of work after loading, 5 GiB of memory, and 1 GiB"
    )
    # Three runs and two before them, a prompt of 60 tokens and 20 of answer, of engine and Hugging Face.
    assert ahead["benchmark"].startswith(f"at least {2 * 5 * (100 * 60 / 512 + 50 * 20) / 1000:.1f} s")
    assert ahead["quantization"] == "nothing: the weights stay as they are"
    settings["convert"]["dtype"] = "float32"
    assert ", ".join(costs_ahead(settings, PLAN)["convert"]).endswith(" 2 GiB of disk")
    settings["quantization"]["qformat"] = "int4_awq"
    quantized = ", ".join(costs_ahead(settings, PLAN)["quantization"])
    assert quantized.startswith("time not known beforehand")
    assert quantized.endswith("2 GiB of disk")
    settings["benchmark"] = {**settings["benchmark"], "batch_size": "1;8", "duration_s": 30.0, "test_hf": False}
    assert ", ".join(costs_ahead(settings, PLAN)["benchmark"]).startswith("at least 1 min 00 s")


def costs(path):
    return {step["name"]: step["cost"] for step in path.steps}


def test_costs_are_known_before_anything_ran_where_the_model_is_here(folder):
    plan(demo_model_dir("gpt2"))  # the planner is loaded, and the machine measured: the answer is there at once
    path = Guide(folder)
    told = costs(path)
    assert all(word in told["build"] for word in ("about ", " of memory", " of disk"))
    assert all("being worked out" not in words for words in told.values())
    assert "about " in path._repr_mimebundle_()[0]["text/html"]
    path._ahead._changed = lambda: None
    assert not folder.exists()  # to look is not to begin


def test_what_no_one_knows_of_costs_is_said_plainly(folder, tmp_path):
    path = guide(folder)
    assert costs(path)["build"].startswith("not worked out")
    path._ahead._asks, path._ahead.refresh = True, lambda: None
    for source, words in (
        ("openai-community/gpt2", "not known before the step Model fetched"),
        (str(tmp_path / "nowhere"), "no such model"),
        ("demo:llama", "being worked out"),
    ):
        path.choose("model", source=source)
        assert words in costs(path)["build"]
        assert "config.json alone" in costs(path)["model"]
    path._ahead.keep({}, ["asked"], "not known: config.json names no family")
    path._refresh()
    assert costs(path)["run"] == "not known: config.json names no family"
    path.choose("model", source="demo:gpt2")  # what was said of another model is no answer
    assert costs(path)["run"] == "being worked out"


def test_the_same_done_in_another_folder_says_how_long_it_took(folder, tmp_path):
    workbench.convert(ConvertSpec(source="demo:gpt2", output_dir=str(tmp_path / "elsewhere")))
    path = guide(folder)
    path.look_around()
    assert " before, in another folder" in costs(path)["convert"]
    path.choose("model", source="demo:llama")
    assert "took" not in costs(path)["convert"]
