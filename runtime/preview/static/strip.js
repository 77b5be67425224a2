// The strip of the pipeline: for each site what went out and came back over the last minute, for the stages at
// the edge how long they took, and the way of one frame through all steps.

import { element } from "./elements.js";
import { operatorColour, operatorLabel, operatorsOf } from "./operators.js";

const SPAN_S = 60;
const MEAN_S = 3; // flows are told as their mean over so long
const SHORTEST_S = 0.25; // between two readings, or their difference says little
const STAGES = ["global", "decode"];
const STEPS = ["read", "keep", "windows", "global", "track", "decode", "write"];

export class Strip {
  #lanes = new Map();
  #place;
  #bar;

  constructor(place, bar) {
    this.#place = place;
    this.#bar = bar;
  }

  /** Takes a status in; `now` in seconds. */
  update(status, now = performance.now() / 1000) {
    const operators = operatorsOf(status);
    const wanted = new Set();
    for (const site of status.sites) {
      const lane = this.#lane(`site ${site.name}`, () => new SiteLane(site));
      wanted.add(lane);
      lane.update(site, operators, status.paused, now);
    }
    if (status.sites.length && status.windows_run_at_edge) {
      const lane = this.#lane("windows", () => new LocalLane());
      wanted.add(lane);
      lane.update(status.windows_run_at_edge, now);
    }
    for (const stage of STAGES) {
      if (!(stage in status.steps)) continue;
      const lane = this.#lane(stage, () => new StageLane(stage));
      wanted.add(lane);
      lane.update(status.steps[stage], now);
    }
    this.#arrange(wanted);
    this.#place.dataset.local = status.sites.length === 0;
    showFrame(this.#bar, status.steps);
  }

  /** Forgets what was read: figures of another run follow. */
  clear() {
    this.#lanes.clear();
    this.#place.replaceChildren();
  }

  #lane(key, make) {
    if (!this.#lanes.has(key)) this.#lanes.set(key, make());
    return this.#lanes.get(key);
  }

  #arrange(wanted) {
    for (const [key, lane] of this.#lanes) if (!wanted.has(lane)) this.#lanes.delete(key);
    const rows = [...wanted].map((lane) => lane.row);
    if (rows.length !== this.#place.children.length || rows.some((row, i) => row !== this.#place.children[i])) {
      this.#place.replaceChildren(...rows);
    }
  }
}

class Lane {
  row = element("div", "lane");
  label = element("div", "label");
  value = element("div", "value");
  canvas = document.createElement("canvas");
  readings = []; // {at, ...}, oldest first

  constructor() {
    this.canvas.setAttribute("aria-hidden", "true");
    this.row.append(this.label, this.canvas, this.value);
  }

  keep(reading) {
    this.readings.push(reading);
    while (this.readings[0].at < reading.at - SPAN_S) this.readings.shift();
  }

  /** Bars from right (now) to left (a minute ago). `bars`: [{from, at, up, down, colour}], shares of 1. */
  draw(bars, now) {
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    [this.canvas.width, this.canvas.height] = [width * scale, height * scale];
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const middle = bars.some((bar) => bar.down !== undefined) ? height / 2 : height;
    for (const { from, at, up, down = 0, colour } of bars) {
      const x = width - ((now - from) / SPAN_S) * width;
      const wide = Math.max(1, ((at - from) / SPAN_S) * width - 1);
      context.fillStyle = colour;
      context.fillRect(x, middle - up * (middle - 1), wide, Math.max(1, up * (middle - 1)));
      context.globalAlpha = 0.5;
      context.fillRect(x, middle, wide, down * (height - middle));
      context.globalAlpha = 1;
    }
  }
}

class SiteLane extends Lane {
  #last = null;

  constructor(site) {
    super();
    this.row.dataset.site = site.name;
  }

  update(site, operators, paused, now) {
    this.row.dataset.state = site.state;
    this.#label(site, operators);
    const seconds = this.#last ? now - this.#last.at : 0;
    if (!this.#last || seconds >= SHORTEST_S) {
      const rate = (way) =>
        this.#last ? Math.max(0, sent(site, way) - sent(this.#last.site, way)) / seconds : 0;
      const flow = { up: rate("up"), down: rate("down"), state: site.state };
      if (this.#last) this.keep({ from: this.#last.at, at: now, ...flow });
      this.#last = { at: now, site };
    }
    this.#show(site, operatorColour(operators, site.operator), paused, now);
  }

  #mean(key, now) {
    const late = this.readings.filter((each) => each.at > now - MEAN_S);
    const seconds = late.reduce((sum, each) => sum + each.at - each.from, 0);
    return seconds ? late.reduce((sum, each) => sum + each[key] * (each.at - each.from), 0) / seconds : 0;
  }

  #label(site, operators) {
    this.label.replaceChildren(...operatorLabel(operators, site.operator, [site.name]));
    if (site.state !== "ready") this.label.append(element("span", "badge", stateOf(site)));
  }

  #show(site, colour, paused, now) {
    const [most, least] = ["up", "down"].map((key) => Math.max(1, ...this.readings.map((each) => each[key])));
    const bars = this.readings.map(({ from, at, up, down, state }) => ({
      from,
      at,
      up: state === "ready" ? up / most : 0,
      down: down / least,
      colour: state === "ready" ? colour : "#d6453d",
    }));
    this.draw(bars, now);
    const flows = `↑ ${bytes(this.#mean("up", now))}/s   ↓ ${bytes(this.#mean("down", now))}/s`;
    const heads = bytes(site.head_bytes_up + site.head_bytes_down);
    const known = `${site.tiles} tiles served, ${site.in_flight} in flight; ↑ tiles out, ↓ embeddings in; ${heads} of all were heads of HTTP`;
    const error = (site.last_error ?? "has not answered yet").replace(`site ${site.name}: `, "");
    const ready = site.state === "ready";
    this.value.textContent = !ready ? error : paused ? "paused" : flows;
    this.value.title = ready ? known : error;
  }
}

/** What a site's badge says; one that answers its probe but not its tiles has the number of those it failed. */
function stateOf(site) {
  return site.state === "failing" ? `failing (${site.failures})` : site.state;
}

/** Windows that run here, for want of a site that may see them. */
class LocalLane extends Lane {
  constructor() {
    super();
    this.label.append(element("b", "", "windows"), element("small", "", "at the edge"));
    this.row.dataset.stage = "windows";
  }

  update(count, now) {
    const last = this.readings.at(-1);
    if (!last || now - last.at >= SHORTEST_S) {
      const more = last ? Math.max(0, count - last.count) / (now - last.at) : 0;
      this.keep({ from: last?.at ?? now, at: now, count, more });
    }
    const most = Math.max(1, ...this.readings.map((each) => each.more));
    const colour = getComputedStyle(this.row).color;
    this.draw(this.readings.map((each) => ({ ...each, up: (each.more / most) * 0.9, colour })), now);
    this.value.textContent = `${count} run here, not at a site`;
  }
}

class StageLane extends Lane {
  constructor(stage) {
    super();
    this.label.append(element("b", "", stage), element("small", "", "at the edge"));
    this.row.dataset.stage = stage;
  }

  update(ms, now) {
    const last = this.readings.at(-1);
    if (Number.isFinite(ms) && (!last || now - last.at >= SHORTEST_S)) {
      this.keep({ from: last?.at ?? now, at: now, ms });
    }
    const most = Math.max(1, ...this.readings.map((each) => each.ms));
    const colour = getComputedStyle(this.row).color;
    this.draw(this.readings.map((each) => ({ ...each, up: (each.ms / most) * 0.9, colour })), now);
    this.value.textContent = ms > 0 ? `${ms.toFixed(0)} ms a frame` : "idle";
  }
}

/** The steps of a frame side by side, as wide as each takes. */
function showFrame(place, steps) {
  const known = STEPS.filter((step) => Number.isFinite(steps[step]));
  const longest = Math.max(...known.map((step) => steps[step]));
  const parts = known.map((step) => {
    const part = element("div", "part");
    part.dataset.step = step;
    part.classList.toggle("slowest", steps[step] === longest);
    part.style.setProperty("flex-grow", Math.max(steps[step], 0.5));
    part.append(element("span", "", step), element("span", "ms", `${steps[step].toFixed(0)} ms`));
    return part;
  });
  place.replaceChildren(...parts);
}

/** All bytes of one way, "up" or "down": bodies and heads. */
function sent(site, way) {
  return site[`bytes_${way}`] + site[`head_bytes_${way}`];
}

function bytes(count) {
  if (count < 1000) return `${count.toFixed(0)} B`;
  if (count < 999_500) return `${(count / 1000).toFixed(0)} kB`;
  return `${(count / 1e6).toFixed(1)} MB`;
}
