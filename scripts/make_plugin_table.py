"""Write the table of plugins in docs/plugins.md anew from the registry; ``--check`` only says whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from trtbench_lab.plugins.frame import Plugin
from trtbench_lab.plugins.registry import all_plugins

TARGET = Path(__file__).parent.parent / "docs" / "plugins.md"
START, END = "<!-- table of plugins: make docs -->", "<!-- end of the table -->"


def types_of(plugin: Plugin) -> str:
    """Name the types that a plugin's tensors have, in the order of the rows."""
    return " · ".join(dict.fromkeys(one for row in plugin.types for one in row))


def table() -> str:
    """Return the table's lines."""
    lines = ["| plugin | node | option | in the place of | types |", "| --- | --- | --- | --- | --- |"]
    for plugin in all_plugins().values():
        options = ", ".join(f"`{switch}`" for switch in plugin.switches)
        lines.append(f"| `{plugin.name}` | `{plugin.op_type}` | {options} | {plugin.replaces} | {types_of(plugin)} |")
    return "\n".join(lines)


def document() -> str:
    """Return the page with its table as the registry has it."""
    page = TARGET.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    if "--check" in arguments:
        is_current = TARGET.read_text(encoding="utf-8") == document()
        print("docs/plugins.md is current." if is_current else "docs/plugins.md is stale: run this script.")
        return 0 if is_current else 1
    TARGET.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
