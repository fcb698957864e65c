// The board: controls, runs to choose from, figures by group. Every state is a trait of the model.

function fieldOf(model, control) {
  const value = model.get("values")[control.name];
  const put = (next) => {
    model.set("values", { ...model.get("values"), [control.name]: next });
    model.save_changes();
  };
  const shared = { id: undefined, title: control.help || "", "aria-label": control.label };
  let input;
  if (control.kind === "select") {
    input = h("select", { ...shared, onchange: (e) => put(e.target.value) },
      control.options.map(([key, label]) => h("option", { value: key, selected: String(key) === String(value) }, label)));
  } else if (control.kind === "number") {
    input = h("input", {
      ...shared, type: "number", min: control.min, max: control.max, value, style: "width:6.5em",
      onchange: (e) => { if (e.target.validity.valid && e.target.value !== "") put(Number(e.target.value)); },
    });
  } else if (control.kind === "line") { // what is half typed is no request: it counts when it is left, or by Enter
    const id = `tb-${Math.random().toString(36).slice(2)}`;
    input = h("input", {
      ...shared, type: "text", value: value || "", placeholder: control.placeholder || "", list: control.suggestions ? id : null,
      spellcheck: false, onchange: (e) => put(e.target.value.trim()),
    });
    input.dataset.control = control.name;
    const offered = control.suggestions ? h("datalist", { id }, control.suggestions.map(([key, words]) => h("option", { value: key }, words))) : null;
    return h("label", { className: "tb-field tb-line" }, h("span", {}, control.label), input, offered);
  } else {
    let timer = null; // a pause in typing, not each letter, is an update
    input = h("input", {
      ...shared, type: "search", value: value || "", placeholder: control.placeholder || "",
      oninput: (e) => { clearTimeout(timer); timer = setTimeout(() => put(e.target.value), 250); },
    });
  }
  input.dataset.control = control.name;
  return h("label", { className: "tb-field" }, h("span", {}, control.label), input);
}

function render({ model, el }) {
  const root = page("tb-board", model.get("heading"));
  const title = h("h3", {});
  const summary = h("span", { className: "tb-muted" });
  const notice = h("div", { className: "tb-notice", role: "alert" });
  const controls = h("div", { className: "tb-row", role: "group", "aria-label": "Controls" });
  const runs = h("div", { className: "tb-runs", role: "group", "aria-label": "Runs" });
  const chooser = h("div", { className: "tb-panel" }, controls, runs);
  const main = h("div", {});
  const facts = h("dl", { className: "tb-facts" });
  const table = h("div", { className: "tb-panel" });
  const actions = h("div", { className: "tb-row tb-actions" });
  el.append(root);
  const say = voice(root);
  const lines = spellings(say, "This request as a line");
  root.prepend(h("header", { className: "tb-top" }, title, summary), notice, chooser, facts, table, main, lines.element, actions);
  const cards = new Map();
  let theme = "light";

  const pick = (run) => {
    const now = model.get("highlighted");
    model.set("highlighted", now.includes(run) ? now.filter((id) => id !== run) : [...now, run]);
    model.save_changes();
  };

  const head = () => {
    title.textContent = model.get("heading");
    summary.textContent = model.get("summary");
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
    chooser.hidden = !model.get("controls").length && !model.get("runs").length;
  };

  const showControls = () => {
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset.control : null;
    controls.replaceChildren(...model.get("controls").map((control) => fieldOf(model, control)));
    if (focused) controls.querySelector(`[data-control="${focused}"]`)?.focus();
    head();
  };

  // Numbers, table, lines and buttons: only where the board has some.
  const showFacts = () => {
    const list = model.get("facts"), rows = model.get("table").rows || [], buttons = model.get("actions");
    facts.hidden = !list.length;
    facts.replaceChildren(...list.map((fact) => h("div", { className: "tb-fact", "data-state": fact.state || "" },
      h("dt", {}, fact.label), h("dd", { className: "tb-value" }, fact.value), h("dd", { className: "tb-muted" }, fact.note))));
    table.hidden = !rows.length;
    table.replaceChildren(numbersTable(model.get("table").columns || [], rows, 0));
    lines.element.hidden = !model.get("lines").magic;
    lines.show(model.get("lines"));
    const held = document.activeElement?.dataset?.action;
    actions.hidden = !buttons.length;
    actions.replaceChildren(...buttons.map((one) => h("button", {
      type: "button", "data-action": one.kind, disabled: one.disabled, onclick: () => model.send({ kind: one.kind }),
    }, one.label)));
    if (held) actions.querySelector(`[data-action="${held}"]`)?.focus();
  };

  const syncControls = () => {
    for (const input of controls.querySelectorAll("[data-control]")) {
      const value = model.get("values")[input.dataset.control];
      if (input !== document.activeElement && String(value ?? "") !== input.value) input.value = value ?? "";
    }
  };

  const showRuns = () => {
    const list = model.get("runs"), shown = model.get("shown"), marked = model.get("highlighted");
    const focus = document.activeElement?.dataset?.key;
    runs.hidden = !list.length;
    const swap = (id) => {
      const now = model.get("shown");
      model.set("shown", now.includes(id) ? now.filter((other) => other !== id) : [...now, id]);
      model.save_changes();
    };
    const clear = marked.length ? h("button", {
      type: "button", className: "tb-small", "data-key": "clear",
      onclick: () => { model.set("highlighted", []); model.save_changes(); },
    }, "Clear highlight") : null;
    runs.replaceChildren(
      h("div", { className: "tb-runhead tb-muted" }, h("span", {}, "Runs: tick to draw, press a name to highlight it in every figure"), clear),
      h("ul", { className: "tb-runlist" }, list.map((run) => h("li", { className: marked.includes(run.id) ? "tb-on" : "" },
        h("input", {
          type: "checkbox", checked: shown.includes(run.id), "aria-label": `Draw ${run.label}`, "data-key": `box-${run.id}`,
          onchange: () => swap(run.id),
        }),
        h("button", {
          type: "button", className: "tb-small tb-runname", "aria-pressed": String(marked.includes(run.id)),
          disabled: !shown.includes(run.id), "data-key": `name-${run.id}`, title: `Highlight ${run.label}`, onclick: () => pick(run.id),
        }, run.label),
        h("span", { className: "tb-badge", "data-group": run.group }, run.kind),
        h("span", { className: "tb-muted tb-runnumbers" }, run.numbers),
        h("span", { className: "tb-muted tb-when" }, run.when)))));
    if (focus) runs.querySelector(`[data-key="${focus}"]`)?.focus();
  };

  const showPanels = async () => {
    const panels = model.get("panels"), groups = model.get("groups"), templates = model.get("templates");
    const keys = new Set(panels.map((panel) => panel.key));
    for (const [key, card] of cards) if (!keys.has(key)) { card.remove(); cards.delete(key); }
    const sections = new Map();
    const idle = new Map(); // a figure that has nothing to draw is a line, not a card
    for (const panel of panels) {
      if (!sections.has(panel.group)) sections.set(panel.group, []);
      if (!panel.data.length) {
        idle.set(panel.group, [...(idle.get(panel.group) || []), h("p", { className: "tb-muted tb-idle" }, `${panel.title}: ${panel.caption}`)]);
        cards.get(panel.key)?.remove();
        cards.delete(panel.key);
        continue;
      }
      if (!cards.has(panel.key)) cards.set(panel.key, new FigureCard(pick));
      const card = cards.get(panel.key);
      card.highlighted = model.get("highlighted");
      card.show(panel, templates, (groups[panel.group] || "").split(":")[0]);
      card.element.classList.toggle("tb-wide", panel.wide);
      sections.get(panel.group).push(card.element);
    }
    const wanted = [...sections].map(([group, elements]) => [group, groups[group], elements]);
    main.replaceChildren(...wanted.map(([group, words, elements]) => {
      const [name, rest] = (words || "").split(": ");
      const top = words ? h("h4", { className: "tb-group" }, name, rest ? h("span", { className: "tb-muted" }, ` ${rest}`) : null) : null;
      return h("div", { className: "tb-section", "data-group": group }, top, h("div", { className: "tb-grid" }, elements), idle.get(group) || []);
    }));
    if (!panels.length) main.append(h("p", { className: "tb-muted tb-empty" }, "Nothing is drawn yet: tick a run, or loosen the filters."));
    head();
    if (!panels.length) return;
    const Plotly = await loadPlotly(model);
    for (const panel of panels) await cards.get(panel.key)?.draw(Plotly, theme);
    say(`${panels.length} figures drawn`);
  };

  const highlight = async () => {
    showRuns();
    const Plotly = await loadPlotly(model);
    for (const card of cards.values()) card.highlight(model.get("highlighted"), Plotly);
  };

  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && model.get("highlighted").length) {
      model.set("highlighted", []);
      model.save_changes();
    }
  });
  const undo = followTheme(model, root, (now) => {
    theme = now;
    if (window.Plotly) for (const card of cards.values()) if (card.drawn) card.draw(window.Plotly, theme);
  });
  const listeners = {
    "change:heading": head, "change:summary": head, "change:notice": head, "change:controls": showControls,
    "change:values": syncControls, "change:runs": showRuns, "change:shown": showRuns, "change:highlighted": highlight,
    "change:panels": showPanels, "change:facts": showFacts, "change:table": showFacts, "change:lines": showFacts, "change:actions": showFacts,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  showControls();
  showFacts();
  showRuns();
  showPanels();
  return () => {
    undo();
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
    for (const card of cards.values()) card.remove();
  };
}

export default { render };
