"""Figures in notebooks that still draw when the notebook is exported and opened without a network."""

from __future__ import annotations

import html
import itertools
import zlib
from typing import Any

from ..errors import require
from ..results.render import plain_table
from .figure import caption_of, numbers_of
from .html_figure import CONFIG, fallback_html, plotly_script, script_json
from .theme import PURPOSE, plotly_graph_objects

RENDERER = "trtbench"
_numbers = itertools.count()

# Draws when plotly.js is there; the output cell that carries it may come later in the page than the figure.
_DRAW = """
(function () {
  var host = document.getElementById(%(id)s), figure = %(figure)s, tries = 0;
  (function draw() {
    if (!host) { return; }
    if (window.Plotly) {
      host.textContent = "";
      host.style.height = (figure.layout.height || 420) + "px";
      window.Plotly.newPlot(host, figure.data, figure.layout, %(config)s);
    } else if (tries++ < 100) { setTimeout(draw, 100); }
  })();
})();
"""


def use_offline_renderer() -> str:
    """Make figures of this session draw in JupyterLab, and in an exported HTML without any network.

    Puts plotly.js (4.8 MB) into the output of the calling cell, once; each figure's output then holds its data, and its
    numbers as a table for viewers that run no scripts. Plotly's own ``notebook`` renderer would ask a public server
    for MathJax each time a page is opened.

    Returns
    -------
    str
        The renderer that figures now use.

    Raises
    ------
    MissingPackageError
        Without Plotly or IPython.
    """
    io = require("plotly.io", extra="lab", purpose=PURPOSE)
    display = require("IPython.display", extra="lab", purpose="show figures in a notebook")
    io.renderers[RENDERER] = _renderer(require("plotly.io.base_renderers", extra="lab", purpose=PURPOSE))
    # JupyterLab draws the first of the two by its own extension; an exported page has only the second.
    io.renderers.default = f"plotly_mimetype+{RENDERER}"
    script = (
        f'<script type="text/javascript">window.PlotlyConfig = {{MathJaxConfig: "local"}};\n{plotly_script()}</script>'
    )
    display.display(display.HTML(script))
    return str(io.renderers.default)


def notebook_html(figure: Any) -> str:
    """Return a figure as HTML for a page that holds plotly.js; its numbers stand in its place until it is drawn."""
    figure = plotly_graph_objects().Figure(figure)
    data = str(figure.to_json()).replace("<", "\\u003c").replace(">", "\\u003e")  # nothing in it can close the script
    # The count tells equal figures apart, the checksum those of kernels that counted alike.
    identifier = f"trtbench-figure-{next(_numbers)}-{zlib.crc32(data.encode()):08x}"
    script = _DRAW % {"id": script_json(identifier), "figure": data, "config": script_json(CONFIG)}
    return (
        f'<div id="{identifier}" style="width:100%;">{fallback_html(figure)}</div>'
        f'<div style="opacity:.72;font-size:.9em;">{html.escape(caption_of(figure))}</div>'
        f"<script>{script}</script>"
    )


def _renderer(base: Any) -> Any:
    class OfflineRenderer(base.MimetypeRenderer):  # type: ignore[misc]
        """Figures as HTML that asks nobody for anything; plotly.js is in the page already."""

        def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
            return {"text/html": notebook_html(fig_dict), "text/plain": _plain(fig_dict)}

    return OfflineRenderer()


def _plain(fig_dict: dict[str, Any]) -> str:
    figure = plotly_graph_objects().Figure(fig_dict)
    numbers = numbers_of(figure)
    title = str(figure.layout.title.text or "Figure")
    return title if numbers is None else f"{title}\n{plain_table(numbers)}"
