"""The files that describe the package agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def bounds(lines: list[str]) -> dict[str, str]:
    """Return package → version bounds, names normalised."""
    requirements = [Requirement(line) for line in lines]
    return {re.sub(r"[-_.]+", "-", one.name).lower(): str(one.specifier) for one in requirements}


def test_conda_environment_has_the_same_packages_and_bounds():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert bounds(pip) == bounds(PROJECT["dependencies"] + EXTRAS["onnxruntime"] + EXTRAS["lab"])
    python = next(entry for entry in conda if entry.startswith("python>"))
    assert Requirement(python).specifier == Requirement("python" + PROJECT["requires-python"]).specifier


def test_extras_are_the_documented_ones():
    assert set(EXTRAS) == {"lab", "widgets", "tensorrt", "mpi", "onnxruntime", "gpu", "modelopt", "browser", "test"}
    # Who has a notebook server takes the views alone; the lab brings them with the same bounds.
    assert set(EXTRAS["widgets"]) < set(EXTRAS["lab"])


@pytest.mark.parametrize("group", ["base", "onnxruntime", "lab", "widgets", "mpi", "modelopt", "browser", "test"])
def test_constraints_pin_every_requirement_inside_its_bounds(group: str):
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[re.sub(r"[-_.]+", "-", name).lower()] = Version(version)
    for line in PROJECT["dependencies"] if group == "base" else EXTRAS[group]:
        requirement = Requirement(line)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pins, f"constraints.txt does not pin {name}"
        assert pins[name] in requirement.specifier, f"{name}=={pins[name]} is outside {requirement.specifier}"


def test_readme_commands_exist_in_the_makefile():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make ([a-z]+)`?", readme))
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    assert {"tour", "test", "lab"} <= named <= targets


def test_ci_runs_the_readme_commands():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make test", "make tour"]


def test_documents_link_only_to_files_that_exist():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
