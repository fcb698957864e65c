"""Write docs/options.md from the specs; with --check, only say whether it is current."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from trtbench_lab.specs import (
    BenchConfig,
    BuildConfig,
    Mapping,
    ModelConfig,
    PluginConfig,
    QuantConfig,
    SamplingConfig,
    Spec,
)
from trtbench_lab.specs.coerce import describe, is_optional, without_none
from trtbench_lab.specs.command_line import VERBS
from trtbench_lab.specs.flags import flag_table
from trtbench_lab.specs.help_text import default_in_words, first_line, summary
from trtbench_lab.specs.legacy import LEGACY
from trtbench_lab.specs.options import OptionInfo
from trtbench_lab.specs.requests import REQUESTS

TARGET = Path(__file__).parents[1] / "docs" / "options.md"
CONFIGS: tuple[type[Spec], ...] = (
    PluginConfig,
    BuildConfig,
    QuantConfig,
    Mapping,
    SamplingConfig,
    BenchConfig,
    ModelConfig,
)
INTRODUCTION = """# Options

This page is written by `scripts/make_option_table.py` from the specs in `trtbench_lab.specs`, from which command line,
magics and `config.json` are made too. A default stands there and nowhere else.

Flags may be written with `-` or `_`; `--name value`, `--name=value` and `name=value` mean the same. A switch takes
`enable` or `disable`, or nothing for `enable`. A plugin takes `auto`, a data type or `disable`, or nothing for `auto`.
"""


def document() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION, "## Configurations\n"]
    parts += [_config_section(spec) for spec in CONFIGS]
    parts.append("## Commands\n\nEach is a command of the shell (`trtbench build`) and a magic (`%trt_build`).\n")
    parts += [_verb_section(verb) for verb in VERBS]
    parts.append(
        "## Flags of other tools\n\nThese are accepted as they are typed. One that has nothing to do here is told with "
        "the reason; one that asks for what this version lacks stops the command with a sentence.\n"
    )
    parts += [_borrowed_section(verb) for verb in VERBS if LEGACY[verb]]
    return "\n".join(parts).rstrip() + "\n"


def _config_section(spec: type[Spec]) -> str:
    rows = (
        (_names(info), _type(info), f"`{default}`" if (default := _default(info)) else "", _meaning(info))
        for info in spec.options()
    )
    return f"### {spec.__name__}\n\n{first_line(spec)}\n\n" + _table(("option", "type", "default", "meaning"), rows)


def _names(info: OptionInfo) -> str:
    spellings = dict.fromkeys((info.flag, *info.meta.flags, *info.meta.constants))
    spellings.pop(f"--{info.name}", None)
    return ", ".join(f"`{name}`" for name in (info.name, *spellings))


def _verb_section(verb: str) -> str:
    configs = {config.__name__: config for config in CONFIGS}
    rows = []
    used = set()
    for option in flag_table(REQUESTS[verb]).options:
        if option.info.spec in configs:
            used.add(option.info.spec)
            continue
        spellings = dict.fromkeys((option.info.flag, *option.meta.flags, *option.meta.constants))
        default = _default(option.info)
        rows.append(
            (", ".join(f"`{flag}`" for flag in spellings), f"`{default}`" if default else "", _meaning(option.info))
        )
    also = f"And the flags of {', '.join(sorted(used))}.\n" if used else ""
    return f"### {verb}\n\n{summary(verb)} {also}\n" + _table(("flag", "default", "meaning"), rows)


def _borrowed_section(verb: str) -> str:
    by_sentence: dict[tuple[str, str], list[str]] = {}
    for flag, entry in LEGACY[verb].items():
        fate = "not available" if entry.refused else "in our words" if entry.sets is not None else "does nothing"
        by_sentence.setdefault((entry.sentence, fate), []).append(f"`{flag}`")
    rows = ((", ".join(flags), fate, sentence) for (sentence, fate), flags in by_sentence.items())
    return f"### {verb}, borrowed\n\n" + _table(("flags", "here", "why"), rows)


def _default(info: OptionInfo) -> str:
    value = info.default
    if info.required:
        return "required"
    if isinstance(value, Spec):
        return f"{type(value).__name__}()"
    return default_in_words(info)


def _type(info: OptionInfo) -> str:
    if info.choices:
        words = " · ".join(str(choice) for choice in info.choices)
        return f"{words} · none" if is_optional(info.annotation) else words
    kind = without_none(info.annotation)
    return kind.__name__ if isinstance(kind, type) and issubclass(kind, Spec) else describe(info.annotation)


def _meaning(info: OptionInfo) -> str:
    words = [info.help]
    if info.meta.effect:
        words.append(info.meta.effect)
    if info.meta.unit:
        words.append(f"In {info.meta.unit}.")
    return " ".join(words)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '·') for cell in line)} |" for line in lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    if "--check" in arguments:
        is_current = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == document()
        print("docs/options.md is current." if is_current else "docs/options.md is stale: run this script.")
        return 0 if is_current else 1
    TARGET.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
