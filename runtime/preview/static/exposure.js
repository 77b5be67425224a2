// The exposure map: the grid of windows, each in the colours of the operators that have seen it.

import { element } from "./elements.js";
import { initial, operatorColour, operatorLabel, operatorsOf, percent, sharesOf, sitesOf } from "./operators.js";

export class Exposure {
  #grid;
  #legend;
  #drawn = "";

  constructor(grid, legend) {
    this.#grid = grid;
    this.#legend = legend;
  }

  update(status) {
    const drawn = JSON.stringify([status.windows, status.caps, status.shares, status.grid, operatorsOf(status)]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const operators = operatorsOf(status);
    this.#grid.style.setProperty("--side", status.grid);
    this.#grid.replaceChildren(...status.windows.map((window) => cell(window, operators)));
    this.#grid.setAttribute("aria-label", described(status, operators));
    this.#legend.replaceChildren(...legend(status, operators));
  }
}

function cell({ index, sent, kept, kept_now, operators: seenBy }, operators) {
  const made = document.createElement("div");
  made.dataset.window = index;
  const seen = seenBy.length ? "seen" : "unseen";
  made.dataset.state = kept ? "kept" : kept_now ? "kept-now" : sent ? seen : "padding";
  made.textContent = seenBy.map((name) => initial(name, operators)).join(" ");
  made.style.setProperty("--fill", stripes(seenBy.map((name) => operatorColour(operators, name))));
  const who = seenBy.length ? `seen by ${seenBy.join(" and ")}` : "seen by nobody";
  const stays = kept ? "kept here, never sent; " : kept_now ? "kept here in this frame; " : "";
  made.title = `window ${index}: ${sent || stays ? stays + who : "padding, never sent"}`;
  return made;
}

/** One colour, or slanted stripes of several. */
function stripes(colours) {
  if (colours.length < 2) return colours[0] ?? "transparent";
  const width = 9;
  const stops = colours.flatMap((colour, i) => [`${colour} ${i * width}px`, `${colour} ${(i + 1) * width}px`]);
  return `repeating-linear-gradient(135deg, ${stops.join(", ")})`;
}

function legend(status, operators) {
  const lines = operators.map((name) => {
    const seen = status.windows.filter((window) => window.operators.includes(name)).length;
    const cap = status.caps[name];
    const share = cap === undefined ? `${seen}` : `${seen} of ${cap} allowed`;
    const picture = status.shares?.[name];
    const [sign, label, sites] = operatorLabel(operators, name, sitesOf(status, name));
    const who = element("span");
    who.append(label, " ", sites);
    const made = line(sign, who, share);
    if (picture) {
      made.lastChild.append(`, ${percent(picture.seen)}`);
      made.title = sharesOf(picture);
    }
    return made;
  });
  const [kept, padding, now] = unsent(status);
  if (!operators.length) lines.push(line(swatch(""), "no sites", "every window stays here"));
  if (kept) lines.push(line(swatch("kept"), "kept here", `${kept}, never sent`));
  if (now) lines.push(line(swatch("kept-now"), "kept now", `${now}, not sent`));
  if (padding) lines.push(line(swatch("padding"), "padding", `${padding}, never sent`));
  return lines;
}

/** How many windows are kept for ever, how many are padding, and how many are kept in the newest frame alone. */
function unsent({ windows }) {
  const kept = windows.filter((window) => window.kept).length;
  const padding = windows.filter((window) => !window.sent).length - kept;
  return [kept, padding, windows.filter((window) => window.kept_now && !window.kept).length];
}

function swatch(kind) {
  return element("span", `swatch ${kind}`);
}

/** `name` is text or an element. */
function line(sign, name, text) {
  const made = element("li");
  const label = element("span");
  label.append(name);
  made.append(sign, label, element("span", "quiet", text));
  return made;
}

function described(status, operators) {
  const seen = (name) => status.windows.filter((window) => window.operators.includes(name)).length;
  const part = (name) => (status.shares?.[name] ? `, ${percent(status.shares[name].seen)} of the picture` : "");
  const parts = operators.map((name) => `${name} has seen ${seen(name)} windows${part(name)}`);
  const [kept, padding, now] = unsent(status);
  if (now) parts.push(`${now} of ${status.windows.length} are kept here in the newest frame`);
  if (kept) parts.push(`${kept} of ${status.windows.length} are kept here and never sent`);
  return [...parts, `${padding} of ${status.windows.length} are padding and never sent`].join("; ");
}
