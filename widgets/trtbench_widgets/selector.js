// Choices by group, each with its words; conflicts beside them with a click that mends; presets; lines to copy; a comparison.

const GROUP_TITLES = { plugins: "Plugins", attention: "Attention", cache: "K/V cache", quantization: "Quantization" };
const SIGNS = { error: "✕", warning: "!", note: "i" };

function render({ model, el }) {
  const root = page("tb-selector", model.get("title"));
  const title = h("h3", {}, model.get("title"));
  const summary = h("span", { className: "tb-muted", "data-part": "summary" });
  const jump = h("button", { type: "button", className: "tb-small", hidden: true, onclick: () => {
    conflicts.scrollIntoView({ block: "nearest" });
    conflicts.querySelector("button")?.focus();
  } }, "Go to remedies");
  const notice = h("div", { className: "tb-notice", role: "alert" });
  const presets = h("div", { className: "tb-presets", role: "group", "aria-label": "Presets" });
  const why = h("p", { className: "tb-muted tb-why" });
  const conflicts = h("div", { className: "tb-conflicts", "aria-label": "Conflicts", role: "region" });
  const choices = h("div", { className: "tb-choices" });
  const folder = h("input", { type: "text", placeholder: "its folder", title: "Folder of an engine or checkpoint", "aria-label": "Folder to compare with" });
  const differences = h("div", { className: "tb-differences" });
  const supportList = h("div", {}, h("p", { className: "tb-muted" }, "The backends are being asked …"));
  el.append(root);
  const say = voice(root);
  const lines = spellings(say, `${model.get("title")} as a line`);
  const compare = () => { if (folder.value.trim()) model.send({ kind: "compare", folder: folder.value.trim() }); };
  folder.addEventListener("keydown", (event) => { if (event.key === "Enter") compare(); });
  root.prepend(
    h("header", { className: "tb-top" }, title, summary, jump), notice,
    presets, why,
    h("div", { className: "tb-split" },
      choices,
      h("aside", { className: "tb-side" }, conflicts, lines.element,
        h("div", { className: "tb-panel tb-support" }, h("h4", { className: "tb-title" }, "What each backend supports here"), supportList),
        h("div", { className: "tb-panel tb-against" },
          h("h4", { className: "tb-title" }, "Against another engine"),
          h("div", { className: "tb-row" }, folder, h("button", { type: "button", onclick: compare }, "Compare")), differences))));

  const set = (name, value) => model.send({ kind: "set", name, value });
  const rows = {};

  function build() {
    const groups = new Map();
    for (const option of model.get("options")) {
      if (!groups.has(option.group)) groups.set(option.group, []);
      groups.get(option.group).push(option);
    }
    choices.replaceChildren(...[...groups].map(([name, options]) => group(name, groups.size > 1 && name === "quantization", options.map((option) => {
        const id = `tb-${Math.random().toString(36).slice(2)}`;
        const made = fieldControl(option, id, set);
        made.element.setAttribute("aria-describedby", `${id}-words`);
        const badge = h("span", { className: "tb-mark", hidden: true });
        const backends = h("span", { className: "tb-backends", "aria-label": `Backends that honour ${option.name}` });
        const element = h("div", { className: "tb-option", "data-option": option.name },
          h("label", { htmlFor: id, className: "tb-name" }, option.name, badge),
          h("div", { className: "tb-control" }, made.element, option.unit ? h("span", { className: "tb-muted" }, option.unit) : null),
          h("p", { id: `${id}-words`, className: "tb-words" }, option.help, option.effect ? h("span", { className: "tb-muted" }, ` ${option.effect}`) : null),
          h("p", { className: "tb-meta" }, h("span", {}, `default ${option.default_words} · since ${option.since}`), backends));
        rows[option.name] = { element, made, badge, backends, option };
        return element;
      }))));
  }

  // Kernels that the weights decide lie folded: few people ever set them.
  function group(name, folded, elements) {
    const words = GROUP_TITLES[name] || name;
    if (!folded) return h("fieldset", { className: "tb-group" }, h("legend", {}, words), elements);
    return h("details", { className: "tb-group tb-folded" }, h("summary", {}, `${words}: kernels that the checkpoint's weights decide`), elements);
  }

  function showValues() {
    const values = model.get("values");
    for (const [name, row] of Object.entries(rows)) {
      row.made.show(values[name]);
      row.element.classList.toggle("tb-changed", JSON.stringify(values[name]) !== JSON.stringify(row.option.default));
    }
  }

  function showConflicts() {
    const found = model.get("conflicts");
    const errors = found.filter((one) => one.severity === "error").length;
    const warned = found.filter((one) => one.severity === "warning").length;
    summary.textContent = errors ? `${errors} conflict${errors > 1 ? "s" : ""}` : warned ? `${warned} remark${warned > 1 ? "s" : ""}` : "no conflicts";
    summary.classList.toggle("tb-isbad", errors > 0);
    jump.hidden = !found.some((one) => one.fixes.length);
    for (const row of Object.values(rows)) { row.badge.hidden = true; row.element.classList.remove("tb-error"); }
    for (const one of found) {
      for (const name of one.fields) {
        const row = rows[name];
        if (!row || (!row.badge.hidden && row.badge.dataset.severity === "error")) continue;
        row.badge.hidden = false;
        row.badge.textContent = SIGNS[one.severity];
        row.badge.dataset.severity = one.severity;
        row.badge.setAttribute("aria-label", one.severity);
        row.badge.title = one.reason;
        row.element.classList.toggle("tb-error", one.severity === "error");
      }
    }
    const held = conflicts.contains(document.activeElement);
    conflicts.replaceChildren(...found.map((one) => h("div", { className: "tb-conflict", "data-severity": one.severity },
      h("p", {}, h("span", { className: "tb-sign", "aria-hidden": "true" }, SIGNS[one.severity]), one.reason),
      one.remedy ? h("p", { className: "tb-muted" }, one.remedy) : null,
      h("div", { className: "tb-row" }, one.fixes.map((fix) => h("button", {
        type: "button", className: "tb-fix", onclick: () => model.send({ kind: "fix", changes: fix.changes }),
      }, fix.label))))));
    if (!found.length) conflicts.append(h("p", { className: "tb-none" }, h("span", { "aria-hidden": "true" }, "✓ "), "These choices stand together."));
    if (held) (conflicts.querySelector("button") || presets.querySelector("button"))?.focus();
    say(summary.textContent);
  }

  function showPresets() {
    const now = model.get("preset"), all = model.get("presets");
    const held = document.activeElement?.dataset?.preset;
    presets.replaceChildren(...all.map((one) => h("button", {
      type: "button", "aria-pressed": String(one.name === now), title: one.why, "data-preset": one.name,
      onclick: () => model.send({ kind: "preset", name: one.name }),
    }, one.title)));
    if (held) presets.querySelector(`[data-preset="${held}"]`)?.focus();
    why.textContent = all.find((one) => one.name === now)?.why || "Choices of your own.";
  }

  // Backend by backend, what it does not honour and why, folded under how many it does.
  function showGaps() {
    const support = Object.entries(model.get("support"));
    if (!support.length) return;
    supportList.replaceChildren(...support.map(([backend, told]) => {
      const names = Object.keys(told), gaps = names.filter((name) => told[name]);
      const head = [h("b", {}, backend), ` ${names.length - gaps.length} of ${names.length}`];
      if (!gaps.length) return h("p", { className: "tb-whole", "data-backend": backend }, head, h("span", { className: "tb-ok" }, " ✓ all"));
      const byReason = new Map();
      for (const name of gaps) {
        const reason = told[name].startsWith(`${name} `) ? told[name].slice(name.length + 1) : told[name];
        byReason.set(reason, [...(byReason.get(reason) || []), name]);
      }
      return h("details", { "data-backend": backend }, h("summary", {}, head, `, ${gaps.length} not`),
        h("ul", {}, [...byReason].map(([reason, same]) => h("li", {}, same.flatMap((name) => [h("code", {}, name), " "]), reason))));
    }));
  }

  function showSupport() {
    const support = model.get("support"), values = model.get("values");
    for (const [name, row] of Object.entries(rows)) {
      row.backends.replaceChildren(...Object.entries(support).flatMap(([backend, told]) => {
        const key = name === "qformat" ? values.qformat : name === "kv_cache_dtype" ? `${name}=${values[name]}` : name;
        if (!(key in told)) return [];
        const reason = told[key];
        return [h("span", { className: "tb-backend", "data-ok": String(!reason), title: reason || `${backend} honours it` },
          h("span", { "aria-hidden": "true" }, reason ? "– " : "✓ "), backend, h("span", { className: "tb-voice" }, reason ? ` no: ${reason}` : " yes"))];
      }));
    }
  }

  function showDifferences() {
    const found = model.get("differences"), against = model.get("compared");
    if (!against) { differences.replaceChildren(); return; }
    differences.replaceChildren(found.length
      ? numbersTable(["option", "here", "there"], found, 0)
      : h("p", { className: "tb-muted" }, "No difference."));
    say(`${found.length} differences`);
  }

  const showNotice = () => { notice.textContent = model.get("notice"); notice.hidden = !model.get("notice"); if (model.get("notice")) showValues(); };
  const showLines = () => lines.show(model.get("lines"));
  const undo = followTheme(model, root, () => {});
  build();
  const valuesChanged = () => { showValues(); showSupport(); };
  const listeners = {
    "change:values": valuesChanged, "change:conflicts": showConflicts, "change:preset": showPresets, "change:lines": showLines,
    "change:support": () => { showSupport(); showGaps(); }, "change:differences": showDifferences, "change:compared": showDifferences, "change:notice": showNotice,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  for (const listener of new Set(Object.values(listeners))) listener();
  return () => {
    undo();
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
  };
}

export default { render };
