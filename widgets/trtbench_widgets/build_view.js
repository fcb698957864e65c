// Builds as they run, for the monitor and the guide: cards of phases by rank, memory, and the log. The page counts the
// seconds; the kernel sends what is new. No percentage: nobody knows one.

const ENDED = ["done", "failed", "cancelled"];
const STATE_SIGNS = { waiting: "◌", running: "●", cancelling: "…", done: "✓", failed: "✕", cancelled: "■" };
const SEVERITIES = ["debug", "info", "warning", "error"];

function spoken(seconds) {
  if (seconds < 60) return `${Math.max(0, seconds).toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
}

function bytesText(bytes) {
  if (!bytes) return "n/a";
  let size = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (size < 1000) return unit === "B" ? `${size} B` : `${size.toPrecision(3)} ${unit}`;
    size /= 1024;
  }
  return `${size.toPrecision(3)} TiB`;
}

// Resident memory over time: shape at a glance, numbers in words beside it.
function memoryLine(points) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 200 34");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "tb-memory");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Resident memory over time");
  if (points.length > 1) {
    const last = points[points.length - 1][0], top = Math.max(...points.map((one) => one[1]));
    const line = points.map(([at, bytes]) => `${(at / last * 200).toFixed(1)},${(32 - bytes / top * 30).toFixed(1)}`).join(" ");
    const shape = document.createElementNS(svg.namespaceURI, "polyline");
    shape.setAttribute("points", line);
    svg.append(shape);
  }
  return svg;
}

// `cancel(index)` stops a build; `show(builds, log)` draws what is known, `stop()` ends the counting.
function buildView(say, cancel) {
  const cards = h("div", { className: "tb-cards" });
  const log = h("div", { className: "tb-log", tabIndex: 0, role: "log", "aria-label": "Log" });
  const filter = h("select", { "aria-label": "Least severity shown", onchange: () => showLog() },
    ["all lines", "info and above", "warnings and errors", "errors"].map((text, i) => h("option", { value: SEVERITIES[i] }, text)));
  filter.selectedIndex = 1;
  const counts = h("span", { className: "tb-muted" });
  const element = h("div", { className: "tb-watch" }, cards, h("div", { className: "tb-panel tb-logpanel" },
    h("div", { className: "tb-loghead" }, h("h4", { className: "tb-title" }, "Log"), counts, h("span", { className: "tb-grow" }), filter), log));
  let told = "", builds = [], lines = [];

  function phaseRow(phase) {
    return h("li", { className: "tb-phase", "data-state": phase.state },
      h("span", { className: "tb-dot", "aria-hidden": "true" }, { running: "●", done: "✓", failed: "✕" }[phase.state] || "○"),
      h("span", { className: "tb-grow" }, phase.name, h("span", { className: "tb-voice" }, `, ${phase.state}`)),
      h("span", { className: "tb-time", "data-since": phase.state === "running" ? String(phase.since) : null }, phase.state === "running" ? "" : spoken(phase.seconds)));
  }

  function column(build, rank, several) {
    return h("div", { className: "tb-rank", "data-rank": rank === null ? "all" : String(rank) },
      several ? h("h5", {}, rank === null ? "all ranks" : `rank ${rank}`) : null,
      h("ol", { className: "tb-phases", "aria-label": rank === null ? "Phases" : `Phases of rank ${rank}` },
        build.phases.filter((phase) => phase.rank === rank).map(phaseRow)));
  }

  function showBuilds() {
    // Cards are drawn anew some times a second: the focus stays where it was, and what was opened stays open.
    const held = cards.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    const opened = new Set([...cards.querySelectorAll("details[open] > summary")].map((one) => one.dataset.key));
    cards.replaceChildren(...builds.map((build, index) => {
      const ranks = [...new Set(build.phases.map((phase) => phase.rank))].sort((a, b) => (a ?? -1) - (b ?? -1));
      const whole = ranks.filter((rank) => rank === null), single = ranks.filter((rank) => rank !== null);
      const over = ENDED.includes(build.state);
      return h("section", { className: "tb-panel tb-build", "aria-label": build.label, "data-state": build.state },
        h("header", { className: "tb-buildhead" },
          h("h4", { className: "tb-title" }, build.label),
          h("span", { className: "tb-chip", "data-state": build.state }, h("span", { "aria-hidden": "true" }, `${STATE_SIGNS[build.state] || "○"} `), build.state),
          h("span", { className: "tb-time tb-total", "data-since": over ? null : String(build.began) }, over ? spoken(build.elapsed) : ""),
          h("span", { className: "tb-grow" }),
          over ? null : h("button", {
            type: "button", className: "tb-danger", "data-key": `cancel-${index}`, "aria-label": `Cancel ${build.label}`,
            disabled: build.state === "cancelling", onclick: () => cancel(index),
          }, build.state === "cancelling" ? "Cancelling…" : "Cancel")),
        build.error ? h("div", { className: "tb-notice" }, build.error) : null,
        whole.map((rank) => column(build, rank, ranks.length > 1)),
        h("div", { className: "tb-ranks" }, single.map((rank) => column(build, rank, ranks.length > 1))),
        h("div", { className: "tb-memoryrow" }, memoryLine(build.memory),
          h("span", { className: "tb-muted" }, over ? `memory at most ${bytesText(build.peak)}` : `memory ${bytesText(build.resident)}, at most ${bytesText(build.peak)}`)),
        build.notes.length ? h("details", { open: opened.has(`notes-${index}`) }, h("summary", { "data-key": `notes-${index}` }, `${build.notes.length} note${build.notes.length > 1 ? "s" : ""} of the backend`),
          h("ul", { className: "tb-notes" }, build.notes.map((note) => h("li", {}, note)))) : null);
    }));
    if (held !== undefined) cards.querySelector(`[data-key="${held}"]`)?.focus({ preventScroll: true });
    tick();
    const now = builds.map((build) => `${build.label} ${build.state}`).join(", ");
    if (now !== told) { say(now); told = now; }
  }

  function tick() {
    const now = Date.now() / 1000;
    for (const cell of cards.querySelectorAll("[data-since]")) cell.textContent = spoken(now - Number(cell.dataset.since));
  }

  function showLog() {
    const least = SEVERITIES.indexOf(filter.value), several = builds.length > 1;
    const shown = lines.filter((line) => SEVERITIES.indexOf(line.severity) >= least);
    const follows = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
    log.replaceChildren(...shown.map((line) => h("div", { className: "tb-line", "data-severity": line.severity },
      h("span", { className: "tb-at" }, `${line.at.toFixed(1)} s`), h("span", { className: "tb-level" }, line.severity),
      h("span", {}, `${several ? `${builds[line.job].label}: ` : ""}${line.rank === null ? "" : `rank ${line.rank}: `}${line.text}`))));
    if (!shown.length) log.append(h("div", { className: "tb-muted" }, lines.length ? "No line of this severity." : builds.every((build) => ENDED.includes(build.state)) ? "Nothing was printed." : "No line yet."));
    if (follows) log.scrollTop = log.scrollHeight;
    const warned = lines.filter((line) => line.severity === "warning").length, failed = lines.filter((line) => line.severity === "error").length;
    counts.textContent = `${lines.length} lines, ${warned} warnings, ${failed} errors`;
  }

  const timer = setInterval(tick, 200);
  return {
    element,
    show: (nowBuilds, nowLines) => { builds = nowBuilds; lines = nowLines; showBuilds(); showLog(); },
    stop: () => clearInterval(timer),
  };
}
