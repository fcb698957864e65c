// Controls of fields, and the same request in three spellings to be copied; used by the selectors and the guide.

async function copyText(text, say) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { value: text, style: "position:fixed;opacity:0" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied");
}

const SPELLINGS = [["magic", "Notebook"], ["python", "Python"], ["shell", "Shell"]];

// A row of tabs over one block of code; `lines()` gives {magic, python, shell}.
function spellings(say, label) {
  let chosen = "magic";
  let lines = {};
  const code = h("pre", { className: "tb-code", tabIndex: 0, role: "tabpanel", "aria-label": `${label}, to copy` });
  const tabs = SPELLINGS.map(([name, title]) => h("button", {
    type: "button", role: "tab", className: "tb-tab", "data-spelling": name, onclick: () => choose(name),
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (SPELLINGS.findIndex(([one]) => one === name) + step + SPELLINGS.length) % SPELLINGS.length;
      choose(SPELLINGS[next][0]);
      tabs[next].focus();
      event.preventDefault();
    },
  }, title));
  const copy = h("button", { type: "button", className: "tb-small tb-copy", "aria-label": `Copy: ${label}` }, "Copy");
  copy.addEventListener("click", async () => {
    await copyText(lines[chosen] || "", say);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1200);
  });
  const choose = (name) => {
    chosen = name;
    for (const tab of tabs) {
      const on = tab.dataset.spelling === name;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
    }
    code.textContent = lines[name] || "";
  };
  choose(chosen);
  return {
    element: h("div", { className: "tb-lines" },
      h("div", { className: "tb-linehead" }, h("div", { role: "tablist", className: "tb-tabs", "aria-label": `Spelling of: ${label}` }, tabs), copy), code),
    show: (now) => { lines = now; choose(chosen); },
  };
}

// The control of one field of a spec; `set(name, value)` is told of a choice, `show(value)` shows one.
function fieldControl(option, id, set) {
  if (option.control === "switch") {
    const box = h("input", { type: "checkbox", id, role: "switch", className: "tb-switch", "data-name": option.name, onchange: () => set(option.name, box.checked) });
    return { element: box, show: (value) => { box.checked = value; } };
  }
  if (option.control === "choice") {
    const list = h("select", { id, "data-name": option.name, onchange: () => set(option.name, option.choices[list.selectedIndex][0]) },
      option.choices.map(([, words]) => h("option", {}, words)));
    return { element: list, show: (value) => { list.selectedIndex = option.choices.findIndex(([one]) => one === value); } };
  }
  const box = h("input", {
    type: option.control, id, "data-name": option.name, min: option.minimum ?? "", max: option.maximum ?? "", step: option.whole ? 1 : 0.05,
    onchange: () => set(option.name, option.control === "number" ? (box.value === "" ? null : Number(box.value)) : box.value),
  });
  return { element: box, show: (value) => { box.value = value ?? ""; } };
}
