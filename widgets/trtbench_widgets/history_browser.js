// The history: filters, a table to sort and tick, what to do with the ticked ones, and what was opened.

const COLUMNS = [["when", "When (UTC)"], ["kind", "What"], ["name", "Name"], ["model", "Model"], ["backend", "Backend"]];
const SPANS = [["", "any time"], ["24h", "last day"], ["7d", "last week"], ["30d", "last 30 days"]];

function render({ model, el }) {
  const root = page("tb-history", "History of runs");
  const summary = h("span", { className: "tb-muted" });
  const notice = h("div", { className: "tb-notice", role: "alert" });
  const undone = h("div", { className: "tb-undo", role: "status" });
  const filters = h("div", { className: "tb-row", role: "group", "aria-label": "Filters" });
  const tools = h("div", { className: "tb-row tb-selection", role: "toolbar", "aria-label": "Ticked runs" });
  const head = h("tr", {});
  const body = h("tbody", {});
  const table = h("div", { className: "tb-scroll tb-runs" }, h("table", { className: "tb-table", "aria-label": "Runs" }, h("thead", {}, head), body));
  const detail = h("div", { className: "tb-detail" });
  root.append(h("header", { className: "tb-top" }, h("h3", {}, "History"), summary, h("span", { className: "tb-grow" }),
    h("button", { type: "button", className: "tb-small", onclick: () => model.send({ kind: "reload" }) }, "Refresh")),
  notice, h("div", { className: "tb-panel" }, filters, tools, undone, table), detail);
  el.append(root);
  const say = voice(root);
  const cards = [];
  let theme = "light";

  const put = (name, value) => { model.set(name, value); model.save_changes(); };
  const filter = (name, value) => put("filters", { ...model.get("filters"), [name]: value });

  const showFilters = () => {
    const now = model.get("filters"), choices = model.get("choices");
    const focus = document.activeElement?.dataset?.filter;
    let timer = null;
    const select = (name, label, options) => h("label", { className: "tb-field" }, h("span", {}, label),
      h("select", { "data-filter": name, onchange: (e) => filter(name, e.target.value) },
        options.map(([value, text]) => h("option", { value, selected: value === now[name] }, text))));
    const listed = (name, any) => [["", any], ...(choices[name] || []).map((value) => [value, value])];
    const text = filters.querySelector("[data-filter=text]") || h("input", {
      type: "search", placeholder: "name, model, tag, id", "data-filter": "text", value: now.text,
      oninput: (e) => { clearTimeout(timer); timer = setTimeout(() => filter("text", e.target.value), 250); },
    });
    filters.replaceChildren(
      h("label", { className: "tb-field tb-find" }, h("span", {}, "Find"), text),
      select("kind", "What", listed("kind", "everything")), select("model", "Model", listed("model", "any model")),
      select("backend", "Backend", listed("backend", "any backend")), select("tag", "Tag", listed("tag", "any tag")),
      select("since", "When", SPANS), select("metric", "Metric column", [["", "headline numbers"], ...(choices.metric || [])]));
    if (focus) filters.querySelector(`[data-filter="${focus}"]`)?.focus();
  };

  const showTools = () => {
    const count = model.get("selected").length;
    const tag = h("input", { type: "text", placeholder: "tag", "aria-label": "Tag for the ticked runs", style: "width:8em", "data-tool": "tag" });
    const add = () => { if (tag.value.trim()) model.send({ kind: "tag", tag: tag.value }); };
    tag.addEventListener("keydown", (e) => { if (e.key === "Enter") add(); });
    const button = (label, kind, need, look) => h("button", {
      type: "button", disabled: count < need, className: look || "", "data-tool": kind, onclick: () => model.send({ kind }),
    }, label);
    tools.replaceChildren(
      h("span", { className: "tb-muted tb-count" }, count ? `${count} ticked` : "Tick runs to compare, tag or delete them"),
      button("Compare", "compare", 2, count >= 2 ? "tb-main" : ""), tag,
      h("button", { type: "button", disabled: !count, onclick: add, "data-tool": "addtag" }, "Add tag"), button("Delete", "delete", 1, "tb-danger"));
    tag.disabled = !count;
  };

  const showUndo = () => {
    const text = model.get("undo_text");
    undone.hidden = !text;
    undone.replaceChildren(text, " ", h("button", { type: "button", className: "tb-small", "data-tool": "undo", onclick: () => model.send({ kind: "undo" }) }, "Undo"));
  };

  const showHead = () => {
    const [column, direction] = model.get("sort"), rows = model.get("rows"), chosen = model.get("selected");
    const sorter = (name, label) => h("th", { scope: "col", "aria-sort": column === name ? (direction === "asc" ? "ascending" : "descending") : "none" },
      h("button", {
        type: "button", className: "tb-small", "data-sort": name,
        onclick: () => put("sort", [name, column === name && direction === "desc" ? "asc" : "desc"]),
      }, label, h("span", { "aria-hidden": "true" }, column === name ? (direction === "asc" ? " ↑" : " ↓") : "")));
    const metric = model.get("filters").metric;
    const focus = document.activeElement?.dataset?.sort;
    head.replaceChildren(
      h("th", { scope: "col" }, h("input", {
        type: "checkbox", "aria-label": "Tick all", checked: rows.length > 0 && chosen.length === rows.length,
        onchange: (e) => put("selected", e.target.checked ? rows.map((row) => row.id) : []),
      })),
      h("th", { scope: "col" }, h("span", { className: "tb-voice" }, "Open")),
      ...COLUMNS.map(([name, label]) => sorter(name, label)),
      metric ? sorter("metric", metric) : h("th", { scope: "col" }, "Numbers"));
    if (focus) head.querySelector(`[data-sort="${focus}"]`)?.focus();
  };

  const showRows = () => {
    summary.textContent = model.get("summary");
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
    const chosen = new Set(model.get("selected")), open = model.get("detail").id, metric = model.get("filters").metric;
    const focus = document.activeElement?.dataset?.key;
    body.replaceChildren(...model.get("rows").map((row) => h("tr", { className: row.id === open && open ? "tb-on" : "", "data-run": row.id },
      h("td", {}, h("input", {
        type: "checkbox", checked: chosen.has(row.id), "aria-label": `Tick ${row.kind} ${row.name || row.model || row.id}`, "data-key": `tick-${row.id}`,
        onchange: () => put("selected", chosen.has(row.id) ? [...chosen].filter((id) => id !== row.id) : [...chosen, row.id]),
      })),
      h("td", {}, h("button", {
        type: "button", className: "tb-small", "data-key": `open-${row.id}`, "aria-label": `Open ${row.kind} ${row.id}`,
        onclick: () => model.send({ kind: "open", id: row.id }),
      }, "Open")),
      h("td", { className: "tb-when" }, row.when), h("td", {}, h("span", { className: "tb-badge" }, row.kind)),
      h("td", { className: "tb-name" }, row.name, row.tags.map((tag) => h("span", { className: "tb-tag" }, tag, h("button", {
        type: "button", "aria-label": `Take tag ${tag} off`, onclick: () => model.send({ kind: "untag", tag, id: row.id }),
      }, "×")))),
      h("td", {}, row.model), h("td", {}, row.backend),
      metric ? h("td", { className: "tb-num" }, row.metric) : h("td", { className: "tb-muted tb-numbers", title: row.numbers }, row.numbers))));
    if (!model.get("rows").length) body.append(h("tr", {}, h("td", { colSpan: 8, className: "tb-muted tb-none" }, "No run matches.")));
    if (focus) body.querySelector(`[data-key="${focus}"]`)?.focus();
  };

  // Up and down go from row to row in the column of the focused element.
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const [part, id] = (document.activeElement?.dataset?.key || "").split("-");
    if (!step || !id) return;
    const rows = model.get("rows");
    const next = rows[rows.findIndex((row) => row.id === id) + step];
    if (next) { body.querySelector(`[data-key="${part}-${next.id}"]`).focus(); event.preventDefault(); }
  });

  const showDetail = async () => {
    const shown = model.get("detail");
    for (const card of cards.splice(0)) card.remove();
    showRows();
    if (!shown.title) { detail.replaceChildren(); return; }
    const grid = h("div", { className: "tb-figures" });
    const text = h("div", { className: "tb-result tb-scroll", tabIndex: 0, role: "region", "aria-label": shown.title });
    text.innerHTML = shown.html; // written by the library, every text of a run escaped there
    detail.replaceChildren(h("div", { className: "tb-panel" },
      h("div", { className: "tb-detailtop" }, h("h4", { className: "tb-title" }, shown.title),
        h("button", { type: "button", className: "tb-small", "aria-label": "Close what was opened", onclick: () => model.send({ kind: "close" }) }, "Close")),
      grid, h("details", { open: !shown.panels.length }, h("summary", {}, "Tables and texts"), text)));
    say(`${shown.title} opened`);
    if (!shown.panels.length) return;
    const Plotly = await loadPlotly(model);
    for (const panel of shown.panels) {
      if (!panel.data.length) continue;
      const card = new FigureCard(() => {});
      card.show(panel, model.get("templates"), "");
      card.element.classList.toggle("tb-wide", panel.wide);
      grid.append(card.element);
      cards.push(card);
      await card.draw(Plotly, theme);
    }
  };

  const undo = followTheme(model, root, (now) => {
    theme = now;
    if (window.Plotly) for (const card of cards) if (card.drawn) card.draw(window.Plotly, theme);
  });
  const all = () => { showHead(); showRows(); showTools(); };
  const listeners = {
    "change:rows": all, "change:summary": showRows, "change:notice": showRows, "change:choices": showFilters, "change:filters": showFilters,
    "change:sort": showHead, "change:selected": all, "change:detail": showDetail, "change:undo_text": showUndo,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  showFilters();
  showUndo();
  all();
  showDetail();
  return () => {
    undo();
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
    for (const card of cards) card.remove();
  };
}

export default { render };
