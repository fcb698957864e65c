"""Every metric is defined once, with its unit in its name, and described in the documentation."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from pathlib import Path

import pytest

from trtbench_lab.results import METRICS, Metric, definitions

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_catalogue_has_every_definition_once():
    names = [f"{definitions.__name__}.{module.name}" for module in pkgutil.iter_modules(definitions.__path__)]
    modules = [importlib.import_module(name) for name in names]
    groups = [value for module in modules for value in vars(module).values() if isinstance(value, tuple)]
    defined = Counter(metric.tag for group in groups for metric in group if isinstance(metric, Metric))
    assert defined == Counter(METRICS.keys())


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.tag)
def test_units_stand_in_names(metric):
    endings = {"ms": "_ms", "s": "_s", "bytes": "_bytes"}
    if metric.unit in endings:
        assert metric.tag.endswith(endings[metric.unit])
    assert metric.direction in ("lower", "higher", "neither")
    assert metric.definition.endswith(".")


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.tag)
def test_the_page_says_what_the_product_says(metric):
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"`{metric.tag}`" in text
    for sentence in (metric.title, metric.formula, metric.definition, metric.trap):
        assert sentence is None or " ".join(sentence.split()) in text
