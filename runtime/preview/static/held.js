// What an operator holds: a button for each, and of the one that is chosen the picture of the newest tiles it was
// sent. Only while that can be seen is the preview asked for it.

import { operatorLabel, operatorsOf, percent, sharesOf } from "./operators.js";

export class Held {
  #places;
  #look;
  #operators = [];
  #drawn = "";
  #chosen = null;
  #shown = null; // the newest message about the chosen one, and when it came
  #seen = false; // whether the picture is in view
  #asked = null; // [operator, number] that was asked for last

  /** `places`: buttons, body, canvas, share, age, text; look(operator or null, number) asks for what is newer. */
  constructor(places, look) {
    this.#places = places;
    this.#look = look;
    new IntersectionObserver((entries) => {
      this.#seen = entries.at(-1).isIntersecting;
      this.ask();
    }).observe(places.body);
  }

  /** Shows who there is, and their shares. */
  update(status) {
    this.#operators = operatorsOf(status);
    this.#drawButtons(status.shares ?? {});
    if (this.#chosen !== null && !this.#operators.includes(this.#chosen)) this.choose(null);
    this.#tellAge();
  }

  /** A picture came. */
  async show(header, png) {
    if (header.operator === this.#asked?.[0]) this.#asked = null;
    if (header.operator === this.#chosen) {
      const bitmap = header.pixels ? await createImageBitmap(png) : null;
      if (header.operator === this.#chosen) this.#draw(header, bitmap);
      bitmap?.close();
    }
    this.ask();
  }

  /** Another run may answer from now on. */
  reset() {
    this.#asked = null;
    this.#shown = null;
    this.ask();
  }

  /** Asks for what is newer than what is shown, or takes that back: as it is seen now. */
  ask() {
    const wanted = this.#seen && !document.hidden ? this.#chosen : null;
    const number = this.#shown?.header.number ?? 0;
    if (wanted === (this.#asked?.[0] ?? null)) return;
    this.#asked = wanted === null ? null : [wanted, number];
    this.#look(wanted, number);
  }

  /** Chooses an operator, or none. */
  choose(name) {
    this.#chosen = name;
    this.#shown = null;
    const { body, canvas } = this.#places;
    body.hidden = name === null;
    canvas.dataset.number = 0;
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    this.#places.share.textContent = "–";
    this.#places.age.textContent = "";
    this.#mark();
    if (name !== null) body.scrollIntoView({ block: "nearest" });
    this.ask();
  }

  #drawButtons(shares) {
    const drawn = JSON.stringify([this.#operators, shares]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const { buttons } = this.#places;
    const focus = buttons.contains(document.activeElement) ? document.activeElement.dataset.operator : null;
    buttons.replaceChildren(...this.#operators.map((name) => this.#button(name, shares[name])));
    if (!this.#operators.length) buttons.textContent = "no sites: nothing leaves";
    this.#mark();
    if (focus !== null) this.#buttonOf(focus)?.focus();
  }

  #button(name, share) {
    const made = document.createElement("button");
    made.type = "button";
    made.dataset.operator = name;
    const [sign, label] = operatorLabel(this.#operators, name, []);
    label.className = "name";
    made.append(sign, label);
    if (share) {
      const part = document.createElement("small");
      const may = document.createElement("span");
      may.className = "wide";
      may.textContent = "may see ";
      part.append(may, percent(share.may_see));
      made.append(part);
      made.title = sharesOf(share);
    }
    made.addEventListener("click", () => this.choose(this.#chosen === name ? null : name));
    return made;
  }

  #buttonOf(name) {
    return [...this.#places.buttons.children].find(({ dataset }) => dataset.operator === name);
  }

  #mark() {
    for (const button of this.#places.buttons.children) {
      button.setAttribute("aria-pressed", button.dataset.operator === this.#chosen);
    }
  }

  #draw(header, bitmap) {
    const { canvas, share, text } = this.#places;
    this.#shown = { header, at: performance.now() / 1000 };
    canvas.hidden = bitmap === null;
    if (bitmap) {
      [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
      canvas.style.setProperty("--ratio", bitmap.width / bitmap.height);
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
    }
    canvas.dataset.number = header.number;
    const holds = `${percent(header.share)} of the picture`;
    share.textContent = holds;
    const name = header.operator;
    canvas.setAttribute("aria-label", `What ${name} holds: ${holds}, ${windows(header)}; black elsewhere`);
    const said = bitmap ? MOSAIC : HIDDEN;
    if (text.textContent !== said) text.textContent = said;
    this.#tellAge();
  }

  #tellAge() {
    if (!this.#shown) return;
    const { header, at } = this.#shown;
    const since = performance.now() / 1000 - at;
    const ages = header.windows.map(({ age_s }) => age_s + since);
    const ends = [...new Set([Math.min(...ages), Math.max(...ages)].map(seconds))].join(" to ");
    this.#places.age.textContent = ages.length ? `${windows(header)}, sent ${ends} ago` : windows(header);
  }
}

const MOSAIC =
  "The newest tile it was sent at each place since this run began, decoded from exactly what left; black where it " +
  "was sent none. A mosaic of old and new tiles is what an operator really holds.";
const HIDDEN =
  "With this model hidden states leave the edge, not pixels: there is no picture of them to show. That is no " +
  "promise that nobody can make one from them.";

function windows(header) {
  const { length } = header.windows;
  return length === 1 ? "1 window" : `${length || "no"} windows`;
}

function seconds(value) {
  return value < 10 ? `${value.toFixed(1)} s` : value < 120 ? `${value.toFixed(0)} s` : `${(value / 60).toFixed(0)} min`;
}
