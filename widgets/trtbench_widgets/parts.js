// What every view is made of: elements, the theme of the page, a voice for screen readers, plotly.js, figure cards.

function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.startsWith("aria") && name !== "list" && name !== "role") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

// The element of a whole view. Keys pressed in it are its own: by an attribute JupyterLab's shortcuts stay out (a letter
// on a button would cut a cell), and arrows do not reach the notebook, which would move on to the next cell.
function page(className, label) {
  return h("section", {
    className: `tb ${className}`, "aria-label": label, "data-lm-suppress-shortcuts": "true", onkeydown: (event) => event.stopPropagation(),
  });
}

function pageIsDark() {
  const body = document.body.dataset.jpThemeLight;
  if (body) return body === "false";
  if (document.body.classList.contains("vscode-dark") || document.documentElement.getAttribute("theme") === "dark") return true;
  if (document.body.classList.contains("vscode-light")) return false;
  return window.matchMedia("(prefers-color-scheme: dark)").matches;
}

// Calls back with "light" or "dark" now and whenever the page, the system or the model changes it; returns the undoing.
function followTheme(model, root, changed) {
  let current = null;
  const look = () => {
    const wanted = model.get("theme");
    const theme = wanted === "light" || wanted === "dark" ? wanted : pageIsDark() ? "dark" : "light";
    if (theme === current) return;
    current = theme;
    root.dataset.theme = theme;
    changed(theme);
  };
  const observer = new MutationObserver(look);
  observer.observe(document.body, { attributes: true });
  observer.observe(document.documentElement, { attributes: true });
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", look);
  model.on("change:theme", look);
  look();
  return () => {
    observer.disconnect();
    system.removeEventListener("change", look);
    model.off("change:theme", look);
  };
}

// A line that is read out when it changes, and not shown.
function voice(root) {
  const line = h("div", { className: "tb-voice", role: "status", "aria-live": "polite" });
  root.append(line);
  return (text) => { line.textContent = text; };
}

// plotly.js comes from the kernel, once a page, so that nothing is asked of a network.
function loadPlotly(model) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  if (window.trtbenchPlotly) return window.trtbenchPlotly;
  window.trtbenchPlotly = new Promise((resolve) => {
    const answer = (message, buffers) => {
      if (message.kind !== "plotly") return;
      model.off("msg:custom", answer);
      const url = URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" }));
      window.PlotlyConfig = { MathJaxConfig: "local" };
      const script = h("script", { src: url, onload: () => { URL.revokeObjectURL(url); resolve(window.Plotly); } });
      document.head.append(script);
    };
    model.on("msg:custom", answer);
    model.send({ kind: "plotly" });
  });
  return window.trtbenchPlotly;
}

function download(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function csvText(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

// Every drawn point with its series: what the picture shows, as numbers.
function pointsOf(host) {
  const rows = [["series", "x", "y", "value"]];
  for (const trace of host._fullData || []) {
    const name = trace.name || "";
    if (trace.type === "treemap") trace.ids.forEach((id, i) => rows.push([id, "", "", trace.values[i]]));
    else if (trace.type === "heatmap") {
      trace.z.forEach((row, j) => row.forEach((z, i) => rows.push([name, trace.x[i], trace.y[j], z])));
    } else if (trace.x && !trace.fill?.startsWith("to")) {
      for (let i = 0; i < trace.x.length; i++) rows.push([name, trace.x[i], trace.y[i], trace.text?.[i] ?? ""]);
    }
  }
  return rows;
}

function numbersTable(columns, rows, more) {
  const numeric = columns.map((_, i) => rows.length > 0 && rows.every((row) => /^[-\d.,e+ ]*$|^n\/a$/.test(row[i])));
  const cell = (tag) => (text, i) => h(tag, { className: numeric[i] ? "tb-num" : "", scope: tag === "th" ? "col" : null }, text);
  return h("div", { className: "tb-scroll", tabIndex: 0, role: "region", "aria-label": "The numbers of this figure" },
    h("table", { className: "tb-table" },
      h("thead", {}, h("tr", {}, columns.map(cell("th")))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell("td")))))),
    more > 0 ? h("p", { className: "tb-muted" }, `${more.toLocaleString("en")} more rows are in the CSV file.`) : null);
}

// One figure with its words, its downloads and its numbers; `picked` is told whose trace was clicked.
class FigureCard {
  constructor(picked) {
    this.picked = picked;
    this.title = h("h4", { className: "tb-title" });
    this.subtitle = h("p", { className: "tb-muted tb-subtitle" });
    this.badge = h("span", { className: "tb-badge" });
    this.plot = h("div", { className: "tb-plot" });
    this.numbers = h("div", { hidden: true });
    this.reading = h("p", {});
    this.toggle = h("button", { type: "button", className: "tb-small", "aria-pressed": "false", onclick: () => this.swap() }, "Table");
    const save = (format) => h("button", {
      type: "button", className: "tb-small", "aria-label": `Download as ${format}`, onclick: () => this.save(format.toLowerCase()),
    }, format);
    this.element = h("figure", { className: "tb-card", role: "group" },
      h("header", { className: "tb-cardhead" },
        h("div", { className: "tb-grow" }, h("div", { className: "tb-titleline" }, this.title, this.badge), this.subtitle),
        h("div", { className: "tb-tools", role: "toolbar", "aria-label": "This figure" },
          this.toggle, save("PNG"), save("SVG"), save("CSV"))),
      this.plot, this.numbers,
      h("figcaption", {}, h("details", {}, h("summary", {}, "How to read this figure"), this.reading)));
    this.resize = new ResizeObserver(() => {
      if (this.drawn && this.plot.offsetWidth && this.plot.offsetWidth !== this.width) {
        this.width = this.plot.offsetWidth;
        window.Plotly.Plots.resize(this.plot);
      }
    });
    this.resize.observe(this.plot);
  }

  show(panel, templates, badge) {
    this.panel = panel;
    this.templates = templates;
    this.title.textContent = panel.title;
    this.subtitle.textContent = panel.subtitle;
    this.subtitle.title = panel.subtitle;
    this.badge.textContent = badge || "";
    this.badge.hidden = !badge;
    this.badge.dataset.group = panel.group || "";
    this.reading.textContent = panel.caption;
    this.element.setAttribute("aria-label", `${panel.title}. ${panel.subtitle}`);
    this.plot.style.height = `${panel.height}px`;
    this.plot.setAttribute("role", "img");
    this.plot.setAttribute("aria-label", panel.caption);
    this.numbers.replaceChildren(numbersTable(panel.columns, panel.rows, panel.more));
  }

  async draw(Plotly, theme) {
    this.theme = theme;
    const layout = { ...this.panel.layout, template: this.templates[theme], height: this.panel.height, autosize: true };
    const data = this.panel.data.map((trace) => ({ ...trace }));
    this.dim(data);
    for (const label of this.plot.querySelectorAll(".hoverlayer > *")) label.remove(); // of what was drawn before
    await Plotly.react(this.plot, data, layout, { displayModeBar: false, responsive: false, scrollZoom: false });
    if (!this.drawn) {
      this.plot.on("plotly_click", (event) => {
        const meta = event.points?.[0]?.data?.meta;
        if (meta?.run) this.picked(meta.run);
      });
    }
    this.drawn = true;
    this.width = this.plot.offsetWidth;
    this.element.dataset.drawn = "yes";
  }

  dim(data) {
    const chosen = this.highlighted || [];
    for (const trace of data) {
      const aside = chosen.length > 0 && trace.meta?.run && !chosen.includes(trace.meta.run);
      if (aside) trace.opacity = 0.14;
    }
  }

  highlight(runs, Plotly) {
    this.highlighted = runs;
    if (this.drawn) this.draw(Plotly, this.theme);
  }

  swap() {
    const numbers = this.numbers.hidden;
    this.numbers.hidden = !numbers;
    this.plot.hidden = numbers;
    this.toggle.setAttribute("aria-pressed", String(numbers));
    if (!numbers) window.Plotly.Plots.resize(this.plot);
  }

  async save(format) {
    if (format === "csv") {
      download(`${this.panel.name}.csv`, new Blob([csvText(pointsOf(this.plot))], { type: "text/csv" }));
      return;
    }
    // In the file the title stands with the figure, and the ground is the page's own.
    const { layout, data } = this.panel;
    const wide = Math.max(this.plot.offsetWidth, 640);
    const picture = {
      data,
      layout: {
        ...layout, template: this.templates[this.theme], width: wide, height: this.panel.height + 64,
        title: { text: this.panel.titleHtml, subtitle: { text: this.panel.subtitleHtml } },
        margin: { ...(layout.margin || {}), t: 84 },
        paper_bgcolor: this.theme === "dark" ? "#171b21" : "#ffffff",
      },
    };
    const text = await window.Plotly.toImage(picture, { format, width: wide, height: this.panel.height + 64, scale: format === "png" ? 2 : 1 });
    download(`${this.panel.name}.${format}`, await (await fetch(text)).blob());
  }

  remove() {
    this.resize.disconnect();
    if (this.drawn) window.Plotly.purge(this.plot);
    this.element.remove();
  }
}
