"""PluginSelector, QuantSelector, BuildMonitor and Guide in a real JupyterLab, by mouse and by keyboard."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from .keyboard import walk
from .lab import CELLS_S, Notebook

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

CLICK_MS = 100  # the median that a click may take while a build runs, on a machine that does nothing else
BOUND = 10  # … and on one that does
PATH_S = 400  # bound of a fault: eight small steps on a loaded machine

SELECTORS = [
    """
from trtbench_lab.specs.conflicts import Gpu
from trtbench_widgets import BuildMonitor, PluginSelector, QuantSelector
plugins = PluginSelector(); plugins
""",
    "quant = QuantSelector(gpu=Gpu((8, 0), 'A100')); quant",
    """
from tests.widgets.test_build_monitor import Job
jobs = [Job(), Job(ranks=2)]
monitor = BuildMonitor(*jobs, labels=['float16', 'INT4, two ranks'], interval_s=0.1); monitor
""",
]
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
VIEWS = (".tb-selector[aria-label=Plugins]", ".tb-selector[aria-label=Quantization]", ".tb-builds")
GUIDE = ["from trtbench_widgets import Guide\nguide = Guide('path'); guide"]


@pytest.fixture(scope="module")
def notebook(open_notebook: Any) -> Notebook:
    return open_notebook("choices", SELECTORS)


def keys(notebook: Notebook, *names: str) -> None:
    for name in names:
        notebook.page.keyboard.press(name)


def clean(notebook: Notebook) -> None:
    assert notebook.errors == []
    assert notebook.outside == []


def test_a_conflict_appears_with_the_choice_and_one_click_mends_it(notebook: Notebook):
    view = notebook.widget(".tb-selector[aria-label=Plugins]")
    view.locator("[data-name=gpt_attention_plugin]").select_option("disable")
    notebook.until("plugins.values['gpt_attention_plugin']", "disable")
    view.locator(".tb-conflict[data-severity=error]").nth(2).wait_for()
    assert view.locator("[data-option=paged_kv_cache].tb-error").count() == 1
    view.get_by_role("button", name="gpt_attention_plugin → auto").first.click()
    notebook.until("[plugins.values['gpt_attention_plugin'], plugins.conflicts]", ["auto", []])
    view.get_by_text("These choices stand together.").wait_for()
    clean(notebook)


def test_presets_and_lines_follow_each_other(notebook: Notebook):
    view = notebook.widget(".tb-selector[aria-label=Plugins]")
    view.get_by_role("button", name="Fastest").click()
    notebook.until("plugins.preset", "fastest")
    assert view.locator("pre.tb-code").inner_text() == notebook.python("plugins.lines['magic']")
    view.get_by_role("tab", name="Shell").click()
    assert view.locator("pre.tb-code").inner_text().startswith("trtbench build --checkpoint_dir checkpoint")
    view.get_by_role("button", name="TensorRT-LLM 0.16 default").click()
    notebook.until("plugins.preset", "trtllm-0.16")
    notebook.until("sorted(plugins.support)", ["onnxruntime", "tensorrt", "torch"])
    clean(notebook)


def test_quantization_is_chosen_by_keyboard_alone(notebook: Notebook):
    view = notebook.widget(".tb-selector[aria-label=Quantization]")
    view.get_by_role("button", name="Fastest").focus()
    keys(notebook, "Enter")
    notebook.until("quant.values['qformat']", "int4_wo")
    for _ in range(5):
        keys(notebook, "Tab")
    assert notebook.page.evaluate("document.activeElement.dataset.name") == "qformat"
    keys(notebook, *"fp8")
    notebook.until("quant.values['qformat']", "fp8")
    fix = view.get_by_role("button", name="quant_algo → W8A16")
    fix.wait_for()
    fix.focus()
    keys(notebook, "Enter")
    notebook.until("[quant.values['qformat'], quant.values['group_size']]", ["int8_wo", None])
    assert notebook.python("quant.spec.qformat") == "int8_wo"
    clean(notebook)


def test_gaps_of_each_backend_are_opened_by_keyboard(notebook: Notebook):
    view = notebook.widget(".tb-selector[aria-label=Plugins]")
    told = notebook.python("{name: sorted(k for k, v in told.items() if v) for name, told in plugins.support.items()}")
    assert told["onnxruntime"]
    for backend, names in told.items():
        box = view.locator(f".tb-support [data-backend={backend}]")
        if names:
            box.locator("summary").focus()
            keys(notebook, "Enter")
            assert sorted(box.locator("li code").all_inner_texts()) == names


@pytest.mark.parametrize("selector", VIEWS)
def test_tab_goes_through_every_control_in_order_with_its_ring_in_sight(notebook: Notebook, selector: str):
    notebook.widget(selector)
    assert len(walk(notebook, selector)) >= 3


def test_selectors_are_pictured(notebook: Notebook):
    notebook.python("plugins.choose(gpt_attention_plugin='disable')")
    assert len(notebook.pictures(".tb-selector[aria-label=Plugins]", "plugin-selector")) == 6
    assert len(notebook.pictures(".tb-selector[aria-label=Quantization]", "quant-selector")) == 6
    clean(notebook)


def test_builds_are_watched_and_one_is_cancelled(notebook: Notebook):
    view = notebook.widget(".tb-builds")
    assert view.locator(".tb-rank").count() == 4  # all ranks of the first; all, 0 and 1 of the second
    assert view.locator(".tb-line[data-severity=warning]").count() == 2
    assert "%" not in view.inner_text()
    view.get_by_label("Least severity shown").select_option("error")
    assert view.locator(".tb-line").count() == 0
    view.get_by_label("Least severity shown").select_option("info")
    assert len(notebook.pictures(".tb-builds", "build-monitor")) == 6
    # What was opened stays open, and the focus where it was, while the cards are drawn anew some times a second.
    notes = view.locator("[aria-label='float16'] details")
    notes.locator("summary").focus()
    keys(notebook, "Enter")
    drawn = len(notebook.python("monitor.builds[0]['memory']"))
    notebook.page.wait_for_timeout(500)
    notebook.until(f"len(monitor.builds[0]['memory']) != {drawn}", True)
    assert notes.get_attribute("open") is not None
    assert notebook.page.evaluate("document.activeElement.textContent") == "1 note of the backend"
    view.locator("[aria-label='float16'] .tb-danger").focus()
    keys(notebook, "Enter")
    notebook.until("[build['state'] for build in monitor.builds]", ["cancelled", "running"])
    clean(notebook)


def test_guide_goes_from_an_empty_folder_to_a_comparison_by_clicks_and_over_a_restart(open_notebook: Any):
    notebook = open_notebook("guide", GUIDE)
    view = notebook.widget(".tb-guide")
    assert set(notebook.python("list(guide.states().values())")) == {"not begun"}
    view.locator(".tb-machine", has_text="This machine: ").wait_for()
    view.get_by_role("button", name="demo:llama").click()
    notebook.until("guide.settings['model']['source']", "demo:llama")
    view.get_by_role("button", name="demo:gpt2").click()
    notebook.until("guide.settings['model']['source']", "demo:gpt2")
    for step in notebook.python("[step['name'] for step in guide.steps]"):
        view.locator(f"[data-step={step}]").click()
        notebook.until("guide.current", step)
        walk(notebook, ".tb-guide")
    view.locator("[data-step=plugins]").click()
    for name in ("safest", "fastest", "trtllm-0.16"):
        view.locator(f"[data-preset='{name}']").click()
        notebook.until("next(step['preset'] for step in guide.steps if step['name'] == 'plugins')", name)
    assert len(notebook.pictures(".tb-guide", "guide-plugins")) == 6
    view.locator("[data-step=convert]").click()
    view.locator("[data-do=run]").click()  # the model is looked at first
    notebook.until("guide.states()['convert']", "done", PATH_S)

    # The kernel ends in the middle; another guide on the same folder goes on.
    notebook.page.evaluate(f"{KERNEL}.restart()")
    notebook.page.wait_for_function(f"{KERNEL}.status === 'idle'", timeout=CELLS_S * 1000)
    notebook.run_all()
    view = notebook.widget(".tb-guide")
    notebook.until("[guide.states()[name] for name in ('model', 'convert', 'build')]", ["done", "done", "not begun"])
    assert notebook.python("guide.current") == "convert"

    view.locator("[data-step=compare]").click()
    view.locator("[data-do=run]").click()
    notebook.until("guide.running", "build", PATH_S)
    for step in ("run", "build"):  # the build runs in a process of its own: page and kernel answer meanwhile
        view.locator(f"[data-step={step}]").click()
        notebook.until("guide.current", step)
    view.locator("[data-step=compare]").click()
    notebook.until("guide.states()['compare']", "done", PATH_S)
    notebook.until("guide.running", "", PATH_S)
    assert view.locator(".tb-outcome").inner_text().strip()
    assert notebook.python("guide.results['compare'].kind") == "compare"
    assert len(notebook.pictures(".tb-guide", "guide")) == 6

    # The build is watched where it was asked for: phases, log and memory, as the monitor of builds shows them.
    view.locator("[data-step=build]").click()
    watched = view.locator(".tb-watch")
    watched.locator(".tb-build[data-state=done]").wait_for()
    assert watched.locator(".tb-phase[data-state=done]").count() >= 3
    assert watched.locator(".tb-phase[data-state=running]").count() == 0
    walk(notebook, ".tb-guide")
    assert len(notebook.pictures(".tb-guide", "guide-build")) == 6

    # A choice made anew tells which steps it makes stale; arrow keys go through the steps.
    view.locator("[data-step=build]").click()
    view.locator("[data-name=max_batch_size]").fill("4")
    keys(notebook, "Tab")
    notebook.until("[guide.states()[name] for name in ('convert', 'build', 'compare')]", ["done", "stale", "stale"])
    view.locator("[data-step=build]").focus()
    keys(notebook, "ArrowDown")
    notebook.until("guide.current", "run")
    clean(notebook)


def test_a_click_is_answered_within_100_ms_while_a_build_runs(open_notebook: Any):
    """The round trip of a click: page, kernel, the selector's new conflicts, page; over a real build."""
    notebook = open_notebook(
        "responsive",
        [
            """
from trtbench_lab import AutoModelForCausalLM, BuildConfig, demo_model_dir, start_build
from trtbench_widgets import BuildMonitor, PluginSelector
model = AutoModelForCausalLM.from_hugging_face(demo_model_dir("gpt2"), dtype="float32")
chooser = PluginSelector(ask_backends=False); chooser
""",
            """
job = start_build(model, BuildConfig(max_input_len=64, max_seq_len=96), use_cache=False)
watch = BuildMonitor(job); watch
""",
        ],
    )
    took, bare = notebook.page.evaluate(
        """async () => {
            const box = document.querySelector(".tb-selector [data-name=use_custom_all_reduce]");
            const code = document.querySelector(".tb-selector pre.tb-code");
            const took = [], bare = [];
            for (let i = 0; i < 15; i++) {
                const began = performance.now();
                const before = code.textContent;
                box.click();
                while (code.textContent === before) await new Promise((done) => setTimeout(done, 1));
                took.push(performance.now() - began);
                const asked = performance.now();
                await KERNEL.requestExecute({ code: "", silent: true }).done;
                bare.push(performance.now() - asked);
                await new Promise((done) => setTimeout(done, 60));
            }
            return [took, bare];
        }""".replace("KERNEL", KERNEL)
    )
    running = notebook.python("job.state")
    median, alone = statistics.median(took), statistics.median(bare)
    print(f"click to answer: median {median:.0f} ms, largest {max(took):.0f} ms, build {running}")
    print(f"a question that does nothing: median {alone:.0f} ms")
    # Where other work fills the machine a question that does nothing takes long too: a click is a few of those.
    assert median < max(BOUND * CLICK_MS, BOUND * alone)
    clean(notebook)
