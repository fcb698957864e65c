"""A real JupyterLab with a notebook open in headless Chromium: cells are run, widgets are clicked, Python is asked."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "build" / "screenshots"
WIDTHS = {"narrow": 560, "medium": 1000, "wide": 1680}
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
START_S, CELLS_S = 120, 240  # bounds of faults: a loaded machine starts a kernel and imports torch within these
SETTLED_S = 10  # … and draws a view in another theme within these
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none", "recordTiming": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
# Words of JupyterLab's own that are no fault of a widget.
_HARMLESS = ("favicon", "ResizeObserver loop", "lsp", "Failed to load resource: the server responded with a status")


def chromium_path() -> str | None:
    """Return a Chromium of the system, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@contextmanager
def lab_server(folder: Path) -> Iterator[str]:
    """Start JupyterLab on loopback with settings of its own; yields its address with the token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "lab" / "settings"
    settings.mkdir(parents=True)
    (settings / "overrides.json").write_text(json.dumps(_SETTINGS))
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "user"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "TRTBENCH_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "widgets"), str(ROOT)]),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    shipped = Path(sys.prefix) / "share" / "jupyter" / "lab"
    for name in ("static", "schemas", "themes"):
        (folder / "lab" / name).symlink_to(shipped / name)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=token", "--expose-app-in-browser",
        f"--LabApp.app_dir={folder / 'lab'}", "--LabApp.news_url=", "--ServerApp.open_browser=False",
    ]  # fmt: skip
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token=token", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text(errors='replace')[-3000:]}")


class Notebook:
    """One notebook in the browser, with what its page said and asked for."""

    def __init__(self, browser: Any, address: str, folder: Path, name: str, cells: list[str]) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page = browser.new_page(viewport={"width": WIDTHS["medium"], "height": 1000})
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto(f"{address}/lab/tree/{name}.ipynb?token=token&reset")
        cells_shown = "window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length"
        self.page.wait_for_function(cells_shown, timeout=START_S * 1000)
        self.page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        self.page.wait_for_function(f"{_KERNEL}?.status === 'idle'", timeout=START_S * 1000)

    def run_all(self) -> None:
        """Run every cell and wait for the last."""
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.python("1")  # queued behind them
        failed = self.page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']")
        assert failed.count() == 0, failed.all_inner_texts()

    def python(self, expression: str) -> Any:
        """Return the value of an expression in the kernel, through JSON."""
        code = f"import json as _json; _answer = _json.dumps({expression})"
        reply = self.page.evaluate(
            f"""async (code) => {{
                const asked = {{ code, silent: false, store_history: false, user_expressions: {{ a: "_answer" }} }};
                const reply = (await {_KERNEL}.requestExecute(asked).done).content;
                if (reply.status !== "ok") return reply.status + ": " + reply.evalue;
                return reply.user_expressions.a.data["text/plain"];
            }}""",
            code,
        )
        assert reply.startswith(("'", '"')), reply
        return json.loads(ast.literal_eval(reply))

    def until(self, expression: str, expected: Any, timeout_s: float = 60) -> None:
        """Wait until an expression in the kernel has a value."""
        deadline = time.monotonic() + timeout_s
        while (found := self.python(expression)) != expected:
            assert time.monotonic() < deadline, f"{expression} is {found!r}, not {expected!r}"
            time.sleep(0.1)

    def widget(self, selector: str) -> Any:
        """Return the element of a widget, once it is drawn."""
        found = self.page.locator(selector).first
        found.wait_for(state="visible", timeout=CELLS_S * 1000)
        return found

    def pictures(self, selector: str, name: str) -> list[Path]:
        """Take the element's picture at three widths in two themes, into ``build/screenshots``; its words stand out."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        taken = []
        self.page.mouse.move(0, 0)  # no tooltip, no ring of an earlier test
        self.page.evaluate("document.activeElement.blur()")
        for theme, label in THEMES.items():
            self.page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{ theme: '{label}' }})")
            is_light = "true" if theme == "light" else "false"
            self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{is_light}'")
            deadline = time.monotonic() + SETTLED_S  # colours fade over, and a loaded machine takes long for it
            while unreadable := self.page.evaluate(f"({_CONTRAST})({json.dumps(selector)})"):
                assert time.monotonic() < deadline, f"Too faint in the {theme} theme: {unreadable}"
                self.page.wait_for_timeout(200)
            for word, width in WIDTHS.items():
                path = PICTURES / f"{name}-{theme}-{word}.png"
                view = self.page.locator(selector).first
                for height in (1000, None):  # narrow columns make a view higher: a window that holds all of it
                    height = height or min(round(view.bounding_box()["height"]) + 300, 9000)
                    self.page.set_viewport_size({"width": width, "height": height})
                    self.page.wait_for_timeout(400)  # for figures to take their new size
                view.scroll_into_view_if_needed()
                view.screenshot(path=path)
                taken.append(path)
        self.page.set_viewport_size({"width": WIDTHS["medium"], "height": 1000})
        return taken

    def close(self) -> None:
        """Close the page."""
        self.page.close()

    def _heard(self, message: Any) -> None:
        if message.type == "error" and not any(word in message.text for word in _HARMLESS):
            self.errors.append(message.text)

    def _asked(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and parts.hostname != "127.0.0.1":
            self.outside.append(request.url)


_CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8").partition("\n")[2].strip()
_KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
