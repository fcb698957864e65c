// The same request in three spellings, each to be copied; used by the selectors and the guide.

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
