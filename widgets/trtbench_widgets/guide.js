// The path: a rail of steps, and the open step with its choices, cost, button, outcome and lines. The page counts seconds.

const STEP_SIGNS = { "not begun": "", running: "●", done: "✓", stale: "↻", failed: "✕" };

function render({ model, el }) {
  const root = page("tb-guide", "Guide");
  const summary = h("span", { className: "tb-muted", "data-part": "summary" });
  const all = h("button", { type: "button", className: "tb-all", "data-do": "all", onclick: () => model.send({ kind: "all" }) }, "Run all steps");
  const notice = h("div", { className: "tb-notice", role: "alert" });
  const machine = h("p", { className: "tb-muted tb-machine", hidden: true });
  const rail = h("div", { className: "tb-rail", role: "tablist", "aria-label": "Steps", "aria-orientation": "vertical" });
  el.append(root);
  const say = voice(root);
  const lines = spellings(say, "This step as a line");

  const title = h("h4", { className: "tb-steptitle" });
  const state = h("span", { className: "tb-stepstate" });
  const what = h("p", { className: "tb-muted tb-what" });
  const reason = h("div", { className: "tb-reason", role: "status" });
  const found = h("div", { className: "tb-found", role: "group", "aria-label": "Models found here", hidden: true });
  const presets = h("div", { className: "tb-presets", role: "group", "aria-label": "Presets", hidden: true });
  const why = h("p", { className: "tb-muted tb-why", hidden: true });
  const fields = h("div", { className: "tb-fields" });
  const builds = buildView(say, () => model.send({ kind: "cancel" }));
  builds.element.hidden = true;
  const conflicts = h("div", { className: "tb-stepconflicts" });
  const cost = h("p", { className: "tb-cost" });
  const go = h("button", { type: "button", className: "tb-main", "data-do": "run", onclick: () => model.send({ kind: "run", step: model.get("current") }) });
  const next = h("button", { type: "button", "data-do": "next", onclick: () => openStep(1) }, "Next step");
  const before = h("span", { className: "tb-muted tb-before" });
  const bar = h("div", { className: "tb-progress", hidden: true });
  const progressText = h("span", { className: "tb-grow" });
  const progressTime = h("span", { className: "tb-time" });
  const cancel = h("button", { type: "button", className: "tb-danger", "data-do": "cancel", onclick: () => { cancel.disabled = true; model.send({ kind: "cancel" }); } }, "Cancel");
  bar.append(h("span", { className: "tb-spin", "aria-hidden": "true" }), progressText, progressTime, cancel);
  const outcome = h("div", { className: "tb-outcome tb-scroll", tabIndex: 0, role: "region", "aria-label": "Outcome of this step" });
  const outcomeBox = h("details", { className: "tb-outcomebox", open: true }, h("summary", {}, "Outcome"), outcome);
  const panel = h("div", { className: "tb-panel tb-step", role: "tabpanel", tabIndex: -1 },
    h("header", { className: "tb-stephead" }, title, state), what, reason, presets, why, fields, found, conflicts, cost,
    h("div", { className: "tb-row tb-actions" }, go, next, before), bar, builds.element, outcomeBox,
    h("div", { className: "tb-linebox" }, h("h5", {}, "The same as a line"), lines.element));
  root.prepend(h("header", { className: "tb-top" }, h("h3", {}, "From a model to a measured engine"), summary, all),
    machine, notice, h("div", { className: "tb-path" }, rail, panel));

  const stepNow = () => model.get("steps").find((step) => step.name === model.get("current"));

  function open(name) {
    model.send({ kind: "open", step: name });
    model.set("current", name);
  }

  function openStep(by) {
    const names = model.get("steps").map((step) => step.name);
    const at = names.indexOf(model.get("current")) + by;
    if (at < 0 || at >= names.length) return;
    open(names[at]);
    rail.querySelector(`[data-step="${names[at]}"]`)?.focus();
  }

  rail.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (by) { openStep(by); event.preventDefault(); }
  });

  function showRail() {
    const current = model.get("current"), steps = model.get("steps");
    const held = rail.contains(document.activeElement);
    rail.replaceChildren(...steps.map((step, i) => h("button", {
      type: "button", role: "tab", className: "tb-railstep", "data-step": step.name, "data-state": step.state, "aria-selected": String(step.name === current),
      tabIndex: step.name === current ? 0 : -1, onclick: () => open(step.name),
    },
    h("span", { className: "tb-bead", "aria-hidden": "true" }, STEP_SIGNS[step.state] || String(i + 1)),
    h("span", { className: "tb-railtext" }, h("span", { className: "tb-railname" }, step.title),
      h("span", { className: "tb-railstate" }, step.state === "done" && step.seconds >= 0.1 ? `done, ${spoken(step.seconds)}` : step.state)))));
    if (held) rail.querySelector('[aria-selected="true"]')?.focus();
    const done = steps.filter((step) => step.state === "done").length;
    summary.textContent = `${done} of ${steps.length} steps done · ${model.get("folder")}`;
    summary.title = model.get("folder");
  }

  let drawn = "";
  let controls = {};
  function showFields() {
    const name = model.get("current"), settings = model.get("settings")[name];
    if (!settings) return;
    if (drawn !== name) {
      drawn = name;
      controls = {};
      const made = model.get("fields")[name].map((option) => {
        const id = `tb-${Math.random().toString(36).slice(2)}`;
        const made = fieldControl(option, id, (field, value) => model.send({ kind: "set", step: name, name: field, value }));
        made.element.setAttribute("aria-describedby", `${id}-words`);
        controls[option.name] = made;
        return h("div", { className: `tb-choice${option.control === "text" ? " tb-text" : ""}`, "data-option": option.name },
          h("label", { htmlFor: id }, option.name), h("div", { className: "tb-control" }, made.element, option.unit ? h("span", { className: "tb-muted" }, option.unit) : null),
          h("p", { id: `${id}-words`, className: "tb-muted" }, option.help, option.effect ? ` ${option.effect}` : ""));
      });
      const folded = made.filter((_, i) => model.get("fields")[name][i].folded);
      fields.replaceChildren(...made.filter((one) => !folded.includes(one)), ...(folded.length ? [h("details", { className: "tb-more" },
        h("summary", {}, `${folded.length} more, that few people change`), h("div", { className: "tb-fields" }, folded))] : []));
      fields.hidden = !model.get("fields")[name].length;
    }
    for (const [field, made] of Object.entries(controls)) if (document.activeElement !== made.element || made.element.tagName !== "INPUT") made.show(settings[field]);
  }

  // What differs by preset only is drawn anew, so that the focus stays on a button that was pressed.
  function showPresets(step) {
    const held = document.activeElement?.dataset?.preset;
    presets.hidden = why.hidden = !step.presets.length;
    presets.replaceChildren(...step.presets.map((one) => h("button", {
      type: "button", "aria-pressed": String(one.name === step.preset), title: one.why, "data-preset": one.name,
      onclick: () => model.send({ kind: "preset", step: step.name, name: one.name }),
    }, one.title)));
    if (held) presets.querySelector(`[data-preset="${held}"]`)?.focus();
    why.textContent = step.presets.find((one) => one.name === step.preset)?.why || "Choices of your own.";
  }

  function showFound() {
    const here = model.get("current") === "model" ? model.get("found") : [];
    const now = model.get("settings").model?.source, held = document.activeElement?.dataset?.source;
    found.hidden = !here.length;
    found.replaceChildren(h("span", { className: "tb-muted" }, "Found here:"), ...here.map((one) => h("button", {
      type: "button", "aria-pressed": String(one.source === now), "data-source": one.source, title: one.words,
      onclick: () => model.send({ kind: "set", step: "model", name: "source", value: one.source }),
    }, h("span", {}, one.label), h("span", { className: "tb-muted" }, one.words))));
    if (held) [...found.querySelectorAll("button")].find((one) => one.dataset.source === held)?.focus();
    machine.textContent = model.get("machine") ? `This machine: ${model.get("machine")}` : "";
    machine.hidden = !model.get("machine");
  }

  function showBuilds() {
    const known = model.get("builds");
    builds.element.hidden = model.get("current") !== "build" || !known.length;
    if (!builds.element.hidden) builds.show(known, model.get("log"));
  }

  function showStep() {
    const step = stepNow();
    if (!step) return;
    const busy = model.get("running");
    panel.setAttribute("aria-label", step.title);
    title.textContent = step.title;
    state.textContent = step.state;
    state.dataset.state = step.state;
    what.textContent = step.what;
    reason.textContent = step.reason;
    reason.hidden = !step.reason;
    reason.dataset.state = step.state;
    cost.replaceChildren(h("span", { className: "tb-costword" }, "Ahead: "), step.cost);
    cost.hidden = !step.cost;
    go.textContent = !step.does ? (step.state === "done" ? "Kept" : "Keep these choices") : step.state === "done" ? "Run again" : step.state === "failed" ? "Try again" : "Run";
    go.disabled = Boolean(busy);
    go.classList.toggle("tb-main", step.state !== "done");
    next.classList.toggle("tb-main", step.state === "done");
    next.hidden = step.name === model.get("steps").at(-1).name;
    before.textContent = step.before.length ? `runs first: ${step.before.join(", ")}` : "";
    showPresets(step);
    const held = conflicts.contains(document.activeElement);
    conflicts.replaceChildren(...step.conflicts.map((one) => h("div", { className: "tb-conflictline", "data-severity": one.severity },
      h("p", {}, one.reason, " ", h("span", { className: "tb-muted" }, one.remedy)),
      h("div", { className: "tb-row" }, one.fixes.map((fix) => h("button", {
        type: "button", className: "tb-fix", onclick: () => model.send({ kind: "fix", step: step.name, changes: fix.changes }),
      }, fix.label))))));
    if (held) go.focus();
    if (outcome.dataset.html !== step.html) {
      outcome.dataset.html = step.html;
      outcome.innerHTML = step.html; // written by the library, every text of a result escaped there
    }
    outcomeBox.hidden = !step.html;
    outcomeBox.classList.toggle("tb-isstale", step.state === "stale");
    lines.show(step.lines);
    all.disabled = Boolean(busy);
    all.textContent = model.get("steps").every((one) => one.state === "done") ? "All steps done" : "Run all steps";
  }

  function showProgress() {
    const busy = model.get("running"), progress = model.get("progress");
    showBuilds();
    bar.hidden = !busy || (busy === "build" && !builds.element.hidden && model.get("builds").some((one) => !ENDED.includes(one.state)));
    if (!busy) { cancel.disabled = false; return; }
    const title = model.get("steps").find((step) => step.name === busy)?.title || busy;
    progressText.textContent = `${title}: ${progress.text || "starting"}`;
    tick();
  }

  function tick() {
    const began = model.get("progress").began;
    progressTime.textContent = began && model.get("running") ? spoken(Date.now() / 1000 - began) : "";
  }

  let told = "";
  function everything() {
    showRail();
    showFields();
    showFound();
    showStep();
    showProgress();
    const now = model.get("steps").filter((step) => ["failed", "done"].includes(step.state)).map((step) => `${step.title} ${step.state}`).join(", ");
    if (now !== told) { told = now; say(now); }
  }

  const settingsChanged = () => { showFields(); showFound(); };
  const showNotice = () => { notice.textContent = model.get("notice"); notice.hidden = !model.get("notice"); };
  const undo = followTheme(model, root, () => {});
  const timer = setInterval(tick, 200);
  const listeners = {
    "change:steps": everything, "change:settings": settingsChanged, "change:found": showFound, "change:machine": showFound, "change:current": everything, "change:running": everything,
    "change:progress": showProgress, "change:builds": showProgress, "change:log": showBuilds, "change:notice": showNotice,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  everything();
  showNotice();
  return () => {
    undo();
    clearInterval(timer);
    builds.stop();
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
  };
}

export default { render };
