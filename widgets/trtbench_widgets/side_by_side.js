// Streams beside each other. While they run, tokens come in messages; afterwards the record holds every token's moment,
// and the page replays it by itself.

const NS = 1e6;

// Where a side stands at a moment of its own clock: how many tokens, which gaps.
function stateAt(stream, ms) {
  let count = 0;
  while (count < stream.token_ns.length && stream.token_ns[count] / NS <= ms) count++;
  return count;
}

function numbersOf(stream, count) {
  const at = stream.token_ns.slice(0, count).map((ns) => ns / NS);
  const gaps = at.slice(1).map((value, i) => value - at[i]);
  const mean = gaps.length ? gaps.reduce((a, b) => a + b, 0) / gaps.length : null;
  return { ttft: at.length ? at[0] : null, gaps, itl: mean, last: gaps.length ? gaps[gaps.length - 1] : null,
    rate: at.length ? at.length / (at[at.length - 1] / 1000) : null };
}

const ms = (value, digits) => (value === null ? "–" : `${value.toFixed(digits)} ms`);
const bytes = (value) => value === null || value === undefined ? "–" : value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(2)} GiB` : `${(value / 2 ** 20).toFixed(1)} MiB`;

function sparkline(gaps) {
  const wide = 120, tall = 22, most = Math.max(...gaps, 1e-9), shown = gaps.slice(-60);
  const points = shown.map((gap, i) => `${(i / Math.max(shown.length - 1, 1)) * wide},${tall - 2 - (gap / most) * (tall - 4)}`).join(" ");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
  svg.setAttribute("class", "tb-spark");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points);
  svg.append(line);
  return svg;
}

// One side: its name, its numbers, its tokens. Chips are kept and only added to, so that a long text stays fluid.
class Lane {
  constructor(inspect) {
    this.inspect = inspect;
    this.name = h("h4", { className: "tb-title" });
    this.facts = h("span", { className: "tb-muted tb-facts" });
    this.meters = h("dl", { className: "tb-meters" });
    this.spark = h("div", { className: "tb-sparkbox" });
    this.chips = h("div", { className: "tb-chips", role: "listbox", "aria-orientation": "horizontal", tabIndex: 0 });
    this.foot = h("p", { className: "tb-muted tb-foot" });
    this.element = h("article", { className: "tb-card tb-lane" }, h("div", { className: "tb-titleline" }, this.name, this.facts),
      h("div", { className: "tb-gauge" }, this.meters, this.spark), this.chips, this.foot);
    this.count = 0;
    this.at = -1;
    this.chips.addEventListener("keydown", (event) => this.key(event));
    this.chips.addEventListener("click", (event) => {
      const chip = event.target.closest("[role=option]");
      if (chip) this.select([...this.chips.children].indexOf(chip));
    });
    this.chips.addEventListener("focus", () => { if (this.at < 0 && this.count) this.select(this.part() ?? 0); });
  }

  part() { return this.stream?.divergence ? this.stream.divergence.position : null; }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    let next = step ? this.at + step : event.key === "Home" ? 0 : event.key === "End" ? this.count - 1 : null;
    if (event.key === "d") next = this.part();
    if (next === null || !this.count) return;
    event.preventDefault();
    this.select(Math.max(0, Math.min(this.count - 1, next)));
  }

  select(index) {
    this.chips.children[this.at]?.setAttribute("aria-selected", "false");
    this.at = index;
    const chip = this.chips.children[index];
    if (!chip) return;
    chip.setAttribute("aria-selected", "true");
    this.chips.setAttribute("aria-activedescendant", chip.id);
    chip.scrollIntoView({ block: "nearest" });
    this.inspect(this, index);
  }

  side(side, reference, number) {
    this.number = number;
    this.label = side.label;
    this.name.textContent = side.label;
    this.facts.textContent = [side.backend, side.dtype, side.quantization === "none" ? "" : side.quantization].filter(Boolean).join(" · ") + (reference ? " · reference" : "");
    this.chips.setAttribute("aria-label", `Tokens of ${side.label}`);
    this.element.setAttribute("aria-label", side.label);
  }

  show(stream, count, memory) {
    this.stream = stream;
    if (count < this.count) { this.chips.replaceChildren(); this.count = 0; this.at = -1; }
    const part = this.part();
    for (let i = this.count; i < count; i++) {
      const piece = stream.pieces[i];
      const look = part === null || i < part ? "tb-same" : i === part ? "tb-part" : "tb-after";
      const shown = piece === "" ? "⋯" : piece.replace(/\n/g, "⏎\n");
      this.chips.append(h("span", {
        role: "option", "aria-selected": "false", id: `${this.uid}-${i}`, className: `tb-chip${shown.includes("\n") ? " tb-newline" : ""} ${look}`,
        "aria-label": `${piece || "part of a character"}${i === part ? ", first difference" : ""}`,
      }, shown));
    }
    this.count = count;
    const n = numbersOf(stream, count);
    const meter = (label, value, title) => [h("dt", { title }, label), h("dd", {}, value)];
    this.meters.replaceChildren(...[
      meter("TTFT", ms(n.ttft, 1), "time to first token"), meter("ITL", ms(n.itl, 2), "inter-token latency, mean so far"),
      meter("last", ms(n.last, 2), "last gap"), meter("tokens/s", n.rate === null ? "–" : n.rate.toFixed(1), "tokens over time since the call"),
      meter("tokens", String(count), "new tokens"),
    ].flat());
    this.spark.replaceChildren(n.gaps.length > 1 ? sparkline(n.gaps) : "");
    const ends = { end_id: "ended by itself", length: "length reached", stop_words: "stop word" };
    const whole = count === stream.token_ns.length && stream.finish_reason !== undefined;
    const words = [stream.error ? `failed: ${stream.error}` : whole ? ends[stream.finish_reason] || "stopped" : ""];
    if (memory) words.push(`weights ${bytes(memory.weights_bytes)}`, memory.kv_cache_bytes === null ? "" : `cache ${bytes(memory.kv_cache_bytes)}`,
      memory.process_rss_peak_delta_bytes === null ? "" : `process grew by ${bytes(memory.process_rss_peak_delta_bytes)}`);
    this.foot.textContent = words.filter(Boolean).join(" · ");
  }
}

function alternativesTable(title, list, chosen) {
  const most = Math.max(...list.map((a) => a.probability), 1e-9);
  return h("div", { className: "tb-alts" }, h("h5", {}, title), h("table", { className: "tb-table" },
    h("thead", {}, h("tr", {}, ["token", "logit", "probability"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, list.map((a) => h("tr", { className: a.token === chosen ? "tb-chosen" : "" },
      h("td", {}, h("code", {}, a.text === null ? String(a.token) : JSON.stringify(a.text)), a.token === chosen ? " ← chosen" : ""),
      h("td", { className: "tb-num" }, a.logit.toFixed(3)),
      h("td", { className: "tb-num tb-probability" }, h("i", { style: `width:${(60 * a.probability / most).toFixed(0)}px`, "aria-hidden": "true" }),
        ` ${(100 * a.probability).toFixed(1)} %`))))));
}

function render({ model, el }) {
  const uid = `tb${Math.random().toString(36).slice(2)}`;
  const root = page("tb-sbs", "Side by side");
  const status = h("span", { className: "tb-muted" });
  const notice = h("div", { className: "tb-notice", role: "alert" });
  const setup = h("div", { className: "tb-panel" });
  const tabs = h("div", { className: "tb-tabs", role: "tablist", "aria-label": "Prompts" });
  const promptText = h("p", { className: "tb-prompt" });
  const lanesBox = h("div", { className: "tb-lanes" });
  const inspector = h("div", { className: "tb-inspector", role: "status", "aria-live": "polite" });
  const player = h("div", { className: "tb-row tb-player", role: "group", "aria-label": "Replay" });
  const parts = h("div", {});
  const figures = h("div", { className: "tb-figures" });
  const tools = h("div", { className: "tb-row", role: "toolbar", "aria-label": "Keep and export" });
  root.append(h("header", { className: "tb-top" }, h("h3", {}, "Side by side"), status), notice, setup, tabs, promptText, player, lanesBox, inspector, parts, tools, figures);
  el.append(root);
  const say = voice(root);
  let lanes = [], prompt = 0, theme = "light", playing = null, clock = null, streams = [], cards = [];

  const put = (name, value) => { model.set(name, value); model.save_changes(); };
  const record = () => model.get("record");
  const done = () => Boolean(record().prompts);

  // ---- what is asked ---------------------------------------------------------------------------------------------

  // Fields are made once and only updated: a field made anew while a button is pressed would swallow the click.
  const promptBox = h("div", { className: "tb-prompts" });
  const addPrompt = h("button", { type: "button", className: "tb-small", onclick: () => put("prompts", [...model.get("prompts"), ""]) }, "+ prompt");
  const modeBox = h("fieldset", { className: "tb-modes" }, h("legend", {}, "Sides stream"),
    Object.keys(model.get("modes")).map((name) => h("label", {}, h("input", { type: "radio", name: `${uid}-mode`, value: name, onchange: () => put("mode", name) }), ` ${name}`)));
  const most = h("input", {
    type: "number", min: 1, style: "width:6em",
    onchange: () => { if (most.validity.valid && most.value) put("max_new_tokens", Number(most.value)); },
  });
  const run = h("button", { type: "button", className: "tb-main", onclick: () => model.send({ kind: "run" }) }, "Run");
  const stop = h("button", { type: "button", onclick: () => model.send({ kind: "stop" }) }, "Stop");
  const modeWord = h("p", { className: "tb-muted tb-modeword" });
  setup.append(promptBox, addPrompt, h("div", { className: "tb-row tb-ask" }, modeBox,
    h("label", { className: "tb-field" }, h("span", {}, "Most new tokens"), most), run, stop), modeWord);

  const showPrompts = () => {
    const prompts = model.get("prompts");
    const change = (i, text) => put("prompts", model.get("prompts").map((old, j) => (j === i ? text : old)));
    if (promptBox.children.length !== prompts.length) {
      promptBox.replaceChildren(...prompts.map((_, i) => h("div", { className: "tb-promptrow" },
        h("textarea", { rows: 2, "aria-label": `Prompt ${i + 1}`, onchange: (e) => change(i, e.target.value) }),
        h("button", { type: "button", className: "tb-small", hidden: prompts.length < 2, "aria-label": `Remove prompt ${i + 1}`, onclick: () => put("prompts", model.get("prompts").filter((_, j) => j !== i)) }, "×"))));
    }
    prompts.forEach((text, i) => {
      const field = promptBox.children[i].firstChild;
      if (field.value !== text && field !== document.activeElement) field.value = text;
    });
  };

  const showSetup = () => {
    setup.hidden = !model.get("live");
    const busy = ["loading", "running"].includes(model.get("status")), mode = model.get("mode");
    showPrompts();
    for (const field of [addPrompt, modeBox, most, run, ...promptBox.querySelectorAll("textarea, button")]) field.disabled = busy;
    stop.disabled = !busy;
    for (const input of modeBox.querySelectorAll("input")) input.checked = input.value === mode;
    if (most !== document.activeElement) most.value = model.get("max_new_tokens");
    modeWord.textContent = `Streamed ${model.get("modes")[mode]}.`;
  };

  const showStatus = () => {
    const words = { idle: "", loading: "loading engines and model …", running: "streaming …", done: model.get("live") ? "done" : "a recording: no engine, model or GPU is needed" };
    status.textContent = words[model.get("status")];
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
    showSetup();
    say(status.textContent);
  };

  // ---- what came -------------------------------------------------------------------------------------------------

  const makeLanes = () => {
    lanes = model.get("sides").map((side, i) => {
      const lane = new Lane(inspect);
      lane.uid = `${uid}-${i}`;
      lane.side(side, i === 0 && model.get("sides").length > 1, i);
      lane.show({ tokens: [], pieces: [], token_ns: [] }, 0, null);
      return lane;
    });
    lanesBox.replaceChildren(...lanes.map((lane) => lane.element));
    lanesBox.style.setProperty("--lanes", String(Math.min(lanes.length, 2)));
  };

  const inspect = (lane, index) => {
    const stream = lane.stream;
    const gap = index ? stream.token_ns[index] - stream.token_ns[index - 1] : stream.token_ns[0];
    inspector.replaceChildren(h("b", {}, lane.label), ` token ${index + 1} of ${stream.tokens.length}: `, h("code", {}, JSON.stringify(stream.pieces[index])),
      ` id ${stream.tokens[index]}, at ${ms(stream.token_ns[index] / NS, 1)}, ${index ? "gap" : "first token after"} ${ms(gap / NS, 2)}`,
      index === lane.part() ? " · first difference" : "");
  };

  const showParts = () => {
    const shown = done() ? record().prompts[prompt] : null;
    const found = shown ? shown.streams.map((stream, i) => [stream, record().sides[i]]).filter(([stream]) => stream.divergence) : [];
    if (!shown) { parts.replaceChildren(); return; }
    const first = record().sides[0].label;
    const others = record().sides.length > 1;
    parts.replaceChildren(...found.map(([stream, side]) => {
      const d = stream.divergence;
      const margin = (label, value) => h("div", { className: "tb-margin" }, h("span", { className: "tb-muted" }, `Margin of ${label}`), h("b", {}, value.toPrecision(4)));
      return h("section", { className: "tb-panel tb-divergence", "aria-label": `First difference of ${side.label}` },
        h("h4", { className: "tb-title" }, `${side.label} parts from ${first} at token ${d.position + 1}`),
        h("div", { className: "tb-margins" }, margin(side.label, d.engine_margin), margin(first, d.hf_margin),
          h("div", { className: "tb-margin" }, h("span", { className: "tb-muted" }, "Largest logit difference"), h("b", {}, d.max_abs_logit_difference.toPrecision(4)))),
        h("p", { className: "tb-muted" }, "Margin: largest minus second largest logit. Smaller than the logit difference, it is a near tie that either side may win."),
        h("div", { className: "tb-altpair" }, alternativesTable(side.label, d.engine_alternatives, d.engine_token), alternativesTable(first, d.hf_alternatives, d.hf_token)));
    }), others && !found.length && !shown.streams.some((stream) => stream.error) ? h("p", { className: "tb-panel tb-equal" }, "✓ All sides made the same tokens.") : "");
  };

  const showTabs = () => {
    const count = done() ? record().prompts.length : model.get("prompts").length;
    tabs.hidden = count < 2;
    tabs.replaceChildren(...Array.from({ length: count }, (_, i) => h("button", {
      type: "button", role: "tab", className: "tb-small", "aria-selected": String(i === prompt), tabIndex: i === prompt ? 0 : -1,
      onclick: () => choose(i),
      onkeydown: (e) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
        if (step && i + step >= 0 && i + step < count) { choose(i + step); tabs.children[i + step].focus(); }
      },
    }, `Prompt ${i + 1}`)));
    promptText.textContent = done() ? record().prompts[prompt]?.prompt || "" : "";
    promptText.hidden = !promptText.textContent;
  };

  const choose = (index) => {
    prompt = index;
    pause();
    clock = null;
    for (const lane of lanes) lane.show({ tokens: [], pieces: [], token_ns: [] }, 0, null);
    inspector.textContent = "";
    showTabs();
    showLanes();
    showParts();
    showPlayer();
    showFigures();
  };

  // What a lane shows: the record up to the player's clock, or what has come so far.
  const showLanes = () => {
    lanes.forEach((lane, i) => {
      const stream = done() ? record().prompts[prompt]?.streams[i] : streams[prompt]?.[i];
      if (!stream) return;
      const memory = done() ? record().sides[i].memory : null;
      const count = done() && clock !== null ? stateAt(stream, clock - offset(i)) : stream.tokens.length;
      lane.show(stream, count, memory);
    });
  };

  // In turn a side begins when the one before it has ended; a replay keeps that.
  const offset = (i) => record().prompts[prompt].streams[i].began_ns / NS;
  const duration = () => Math.max(1, ...record().prompts[prompt].streams.map((stream, i) => offset(i) + (stream.token_ns.at(-1) || 0) / NS));

  const pause = () => { if (playing) cancelAnimationFrame(playing); playing = null; };
  let speed = 1;
  const play = () => {
    const end = duration();
    if (clock === null || clock >= end) clock = 0;
    let before = performance.now();
    const step = (now) => {
      clock = Math.min(end, clock + (now - before) * speed);
      before = now;
      showLanes();
      moveSlider();
      if (clock < end) playing = requestAnimationFrame(step);
      else { pause(); showPlayer(); say("Replay ended"); }
    };
    playing = requestAnimationFrame(step);
    showPlayer();
  };
  const moveSlider = () => {
    const slider = player.querySelector("input");
    if (!slider) return;
    slider.value = clock === null ? slider.max : clock;
    player.querySelector("output").textContent = `${((clock === null ? duration() : clock) / 1000).toFixed(2)} s`;
  };
  const showPlayer = () => {
    const on = done() && record().prompts.length > 0;
    player.hidden = !on;
    if (!on) return;
    const focus = document.activeElement?.dataset?.player;
    const end = duration();
    player.replaceChildren(
      h("button", { type: "button", "data-player": "play", "aria-label": playing ? "Pause the replay" : "Replay the streams", onclick: () => { if (playing) { pause(); showPlayer(); } else play(); } }, playing ? "❚❚ Pause" : "▶ Replay"),
      h("input", { type: "range", min: 0, max: end, step: end / 500, "aria-label": "Moment of the replay", "data-player": "slider",
        oninput: (e) => { pause(); clock = Number(e.target.value); showLanes(); moveSlider(); } }),
      h("output", { className: "tb-muted" }),
      h("label", { className: "tb-muted" }, "speed ", h("select", { "data-player": "speed", onchange: (e) => { speed = Number(e.target.value); } },
        [0.1, 0.25, 1, 4].map((value) => h("option", { value, selected: value === speed }, `${value} ×`)))));
    moveSlider();
    if (focus) player.querySelector(`[data-player="${focus}"]`)?.focus();
  };

  const showTools = () => {
    tools.hidden = !done();
    const kept = model.get("kept_as");
    tools.replaceChildren(
      h("button", { type: "button", disabled: Boolean(kept), "data-tool": "keep", onclick: () => model.send({ kind: "keep" }) }, kept ? `Kept as ${kept}` : "Keep in history"),
      h("button", { type: "button", "data-tool": "json", onclick: () => model.send({ kind: "export", format: "json" }) }, "Export JSON"),
      h("button", { type: "button", "data-tool": "html", onclick: () => model.send({ kind: "export", format: "html" }) }, "Export HTML"));
  };

  const showFigures = async () => {
    for (const card of cards.splice(0)) card.remove();
    const panels = model.get("panels").filter((panel) => panel.prompt === prompt && panel.data.length);
    if (!panels.length) return;
    const Plotly = await loadPlotly(model);
    if (panels.some((panel) => !model.get("panels").includes(panel)) || cards.length) return;
    for (const panel of panels) {
      const card = new FigureCard(() => {});
      card.show(panel, model.get("templates"), "one run");
      figures.append(card.element);
      cards.push(card);
      await card.draw(Plotly, theme);
    }
  };

  const onRecord = () => {
    prompt = Math.min(prompt, Math.max(0, (record().prompts?.length || 1) - 1));
    clock = null;
    if (done()) makeLanes();
    showTabs();
    showLanes();
    showParts();
    showPlayer();
    showTools();
    showFigures();
  };

  const onMessage = (message, buffers) => {
    if (message.kind === "file") {
      download(message.name, new Blob([buffers[0]]));
      say(`${message.name} exported`);
    } else if (message.kind === "tokens" && !done()) {
      if (message.fresh) { streams = []; makeLanes(); prompt = 0; }
      for (const e of message.events) {
        const sides = (streams[e.p] = streams[e.p] || lanes.map(() => ({ tokens: [], pieces: [], token_ns: [] })));
        if (e.k === "b") { if (e.p > prompt) { prompt = e.p; for (const lane of lanes) lane.show(sides[0], 0, null); } continue; }
        sides[e.s].tokens.push(e.t);
        sides[e.s].pieces.push(e.x);
        sides[e.s].token_ns.push(e.n);
      }
      showTabs();
      showLanes();
      root.dataset.tokens = String(streams.flat().reduce((sum, stream) => sum + (stream?.tokens.length || 0), 0));
    }
  };

  const undo = followTheme(model, root, (now) => {
    theme = now;
    if (window.Plotly) for (const card of cards) if (card.drawn) card.draw(window.Plotly, theme);
  });
  const listeners = {
    "change:status": showStatus, "change:notice": showStatus, "change:live": showStatus, "change:prompts": showSetup, "change:mode": showSetup,
    "change:max_new_tokens": showSetup, "change:sides": () => { makeLanes(); showLanes(); }, "change:record": onRecord, "change:kept_as": showTools,
    "change:panels": showFigures, "msg:custom": onMessage,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  makeLanes();
  showStatus();
  onRecord();
  if (!done()) model.send({ kind: "hello" });
  return () => {
    undo();
    pause();
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
    for (const card of cards) card.remove();
  };
}

export default { render };
