// What can be seen only on a frame that stands still: what a click would take, and what a lone point may mean.

import { bounds, columns, paintMask } from "./rle.js";

const SLOW_MS = 350; // an answer that takes longer is no help to a pointer that moves
const SLOW_ANSWERS = 3; // after so many, one after the other, no more are asked for on this frame
const THUMB_PX = 56; // longer side of a choice's picture

/** Asks what a click under a resting or moving mouse would take, one question at a time, and shows it. */
export class Hover {
  #stage;
  #picture;
  #wanted; // () => content of the prompt under a place, or null where none is to be tried
  #ask;
  #place = null;
  #asking = false;
  #slow = 0;
  #number = -1;

  /** `wanted(place)` gives what a click at [x, y] would ask, null for nothing; `ask(content)` tries it. */
  constructor(stage, picture, wanted, ask) {
    this.#stage = stage;
    this.#picture = picture;
    this.#wanted = wanted;
    this.#ask = ask;
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerleave", () => this.clear());
    stage.addEventListener("pointerdown", () => this.clear());
  }

  /** Shows nothing until the mouse moves again. */
  clear() {
    this.#place = null;
    this.#picture.tried = null;
  }

  #move(event) {
    if (event.pointerType !== "mouse" || event.buttons || !this.#picture.frame) return;
    this.#place = this.#picture.at(event);
    this.#try();
  }

  async #try() {
    if (this.#asking || this.#place === null) return;
    const content = this.#wanted(this.#place);
    if (!content) {
      this.#picture.tried = null;
      return;
    }
    if (content.number !== this.#number) [this.#number, this.#slow] = [content.number, 0];
    if (this.#slow >= SLOW_ANSWERS) return;
    this.#asking = true;
    const [place, asked] = [this.#place, performance.now()];
    const found = await this.#ask(content).catch(() => null);
    this.#slow = performance.now() - asked > SLOW_MS ? this.#slow + 1 : 0;
    this.#asking = false;
    if (this.#place === null) return;
    const same = this.#picture.frame.number === content.number;
    this.#picture.tried = found?.mask && same ? found : null;
    this.#stage.dataset.tried = this.#picture.tried ? place.map(Math.round).join(" ") : "";
    if (found && place !== this.#place) this.#try();
  }
}

/** Three buttons for the three masks that the only point of an object may mean, smallest first. */
export class Choices {
  #row;
  #picture;
  #choose;
  #drawn = "";
  #shown = []; // {mask, iou, number} of each button
  #chosen = 0;

  /** `choose(number)` takes one of them; numbers are 1, 2 and 3. */
  constructor(row, picture, choose) {
    this.#row = row;
    this.#picture = picture;
    this.#choose = choose;
  }

  /** Shows those of an object of a frame; none for null. */
  update(object) {
    const choices = object?.choices ?? [];
    const drawn = JSON.stringify([object?.chosen, choices.map(({ mask }) => mask.counts)]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#chosen = object?.chosen;
    const numbered = choices.map((choice, place) => ({ ...choice, number: place + 1, pixels: area(choice.mask) }));
    this.#shown = numbered.sort((one, other) => one.pixels - other.pixels);
    this.#row.hidden = !choices.length;
    this.#row.replaceChildren(label(), ...this.#shown.map((choice) => this.#button(choice)));
  }

  /** Takes the one that comes after the chosen one. */
  cycle() {
    if (!this.#shown.length) return;
    const place = this.#shown.findIndex(({ number }) => number === this.#chosen);
    this.#choose(this.#shown[(place + 1) % this.#shown.length].number);
  }

  #button(choice) {
    const made = document.createElement("button");
    const share = (100 * choice.pixels) / (choice.mask.size[0] * choice.mask.size[1]);
    const text = `${share < 9.5 ? share.toFixed(1) : share.toFixed(0)} %`;
    made.type = "button";
    made.className = "choice";
    made.setAttribute("aria-pressed", choice.number === this.#chosen);
    made.setAttribute("aria-label", `${text} of the picture, rated ${choice.iou.toFixed(2)}`);
    made.title = made.getAttribute("aria-label");
    made.append(thumbnail(choice.mask), text);
    made.addEventListener("click", () => this.#choose(choice.number));
    made.addEventListener("pointerenter", () => (this.#picture.tried = choice));
    made.addEventListener("pointerleave", () => (this.#picture.tried = null));
    return made;
  }
}

function label() {
  const made = document.createElement("span");
  made.className = "quiet";
  made.textContent = "The point means";
  return made;
}

function area(mask) {
  let pixels = 0;
  columns(mask, (x, from, to) => (pixels += to - from));
  return pixels;
}

/** A mask in white on dark, its whole frame in small. */
function thumbnail(mask) {
  const [height, width] = mask.size;
  const scale = THUMB_PX / Math.max(height, width);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  const box = bounds(mask);
  if (!box) return canvas;
  const full = document.createElement("canvas");
  const image = paintMask(mask, box, "#ffffff");
  [full.width, full.height] = [image.width, image.height];
  full.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.drawImage(full, ...[box[0], box[1], image.width, image.height].map((value) => value * scale));
  return canvas;
}
