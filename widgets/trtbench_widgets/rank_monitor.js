// A line a rank. The page counts the seconds, so that a rank that goes on as before costs no message.

const SIGNS = { starting: "◌", idle: "○", busy: "●", failed: "✕", stuck: "!", dead: "✖", stopped: "■" };

function lasting(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

function render({ model, el }) {
  const root = page("tb-ranks", "Ranks");
  const summary = h("span", { className: "tb-muted" });
  const notice = h("div", { className: "tb-notice", role: "alert" });
  const pause = h("button", {
    type: "button", onclick: () => { model.set("watching", !model.get("watching")); model.save_changes(); },
  });
  const labels = { interrupt: "Interrupt all", restart: "Restart world" };
  const actions = model.get("actions").map((name) => h("button", {
    type: "button", className: name === "restart" ? "tb-danger" : "", onclick: () => model.send({ kind: name }),
  }, labels[name]));
  const body = h("tbody", {});
  const table = h("table", { className: "tb-table", "aria-label": "State of each rank" },
    h("thead", {}, h("tr", {}, ["Rank", "State", "For", "Where", "Last line"].map((name) => h("th", { scope: "col" }, name)))), body);
  root.append(
    h("header", { className: "tb-top" }, h("h3", {}, "Ranks"), summary, h("span", { className: "tb-grow" }), pause, ...actions),
    notice, h("div", { className: "tb-panel tb-rankpanel" }, table));
  el.append(root);
  const say = voice(root);
  let bad = "";

  const show = () => {
    const ranks = model.get("ranks");
    summary.textContent = model.get("summary");
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
    body.replaceChildren(...ranks.map((rank) => h("tr", { className: rank.bad ? "tb-bad" : "" },
      h("th", { scope: "row" }, String(rank.rank)),
      h("td", {}, h("span", { className: "tb-state", "data-state": rank.state },
        h("span", { "aria-hidden": "true" }, SIGNS[rank.state] || "?"), ` ${rank.state}`)),
      h("td", { className: "tb-since", "data-since": String(rank.since) }, ""),
      h("td", {}, h("span", {}, rank.host), h("span", { className: "tb-muted" },
        `${rank.gpu === null ? "" : ` · GPU ${rank.gpu}`} · process ${rank.pid}`)),
      h("td", {}, rank.last_line ? h("code", { title: rank.last_line }, rank.last_line) : null))));
    tick();
    const now = ranks.filter((rank) => rank.bad).map((rank) => `rank ${rank.rank} is ${rank.state}`).join(", ");
    if (now && now !== bad) say(now);
    bad = now;
  };
  const tick = () => {
    for (const cell of body.querySelectorAll(".tb-since")) cell.textContent = lasting(Date.now() / 1000 - Number(cell.dataset.since));
  };
  const watching = () => {
    const on = model.get("watching");
    pause.textContent = on ? "Pause" : "Resume";
    pause.setAttribute("aria-label", on ? "Pause watching" : "Resume watching");
  };
  const undo = followTheme(model, root, () => {});
  const timer = setInterval(tick, 1000);
  model.on("change:ranks", show);
  model.on("change:summary", show);
  model.on("change:notice", show);
  model.on("change:watching", watching);
  show();
  watching();
  return () => {
    undo();
    clearInterval(timer);
    for (const name of ["change:ranks", "change:summary", "change:notice"]) model.off(name, show);
    model.off("change:watching", watching);
  };
}

export default { render };
