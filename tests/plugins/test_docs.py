"""The page on plugins lists what the registry has."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_table_of_plugins_is_current():
    path = ROOT / "scripts" / "make_plugin_table.py"
    spec = importlib.util.spec_from_file_location("make_plugin_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert module.START in page
    assert module.END in page
    assert page == module.document(), "run scripts/make_plugin_table.py"
