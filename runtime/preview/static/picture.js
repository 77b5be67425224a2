// The picture: a frame, the masks that belong to it, and above both what the viewer draws.

import { bounds, columns, paintMask } from "./rle.js";
import { reasonOf } from "./trust.js";

const FILL = { tracked: 0.38, carried: 0.2 };
const FILL_TO_CHECK = 0.12;
const [DARK, LIGHT] = ["#0d0f12", "#fff"]; // either can be seen on any ground
const MARKER_MS = 1600;
const HATCH_PX = 9;

export class Picture {
  frame = null;
  palette = ["#56b4e9"];
  selected = null;
  rubber = null; // [x0, y0, x1, y1] in frame pixels while a box is drawn
  crosshair = null; // [x, y]
  kept = []; // {window, box} of windows that stayed at the edge, in frame pixels
  #keepBoxes = []; // [left, top, right, bottom] in frame pixels, of which nothing ever leaves
  #overlay = true;
  #tried = null; // an object that would be found, or a choice: what has a mask of the size of the picture
  #stage;
  #picture;
  #masks;
  #hud;
  #markers = [];
  #boxes = new Map(); // object name -> bounds of its mask, in picture pixels
  #asked = false;
  #inner = document.createElement("canvas");
  #outer = document.createElement("canvas");

  constructor(stage) {
    this.#stage = stage;
    [this.#picture, this.#masks, this.#hud] = stage.querySelectorAll("canvas");
    new ResizeObserver(() => this.redraw()).observe(stage);
  }

  /** Whether masks, names and what is kept are drawn. */
  get overlay() {
    return this.#overlay;
  }

  set overlay(drawn) {
    this.#overlay = drawn;
    this.#stage.classList.toggle("bare", !drawn);
    this.redraw();
  }

  /** What is drawn in white above the masks; null for nothing. */
  get tried() {
    return this.#tried;
  }

  set tried(object) {
    if (object === this.#tried) return;
    this.#tried = object;
    if (this.frame) this.#drawMasks();
  }

  set keepBoxes(boxes) {
    this.#keepBoxes = boxes ?? [];
    this.redraw();
  }

  /** Shows a frame: header and decoded JPEG. Where its masks were carried along, so is what was kept: nothing of
   * it left. */
  show(header, bitmap) {
    if (this.frame?.number !== header.number) {
      this.#tried = null;
      this.#markers = this.#markers.filter(({ stays }) => !stays);
    }
    this.frame = header;
    if (!isCarried(header)) this.kept = header.kept ?? [];
    for (const canvas of [this.#picture, this.#masks]) {
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
        [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
        this.#stage.style.setProperty("--ratio", header.width / header.height);
      }
    }
    this.#picture.getContext("2d").drawImage(bitmap, 0, 0);
    this.#drawMasks();
    this.#stage.dataset.number = header.number;
    this.#stage.dataset.ready = "";
    this.redraw();
  }

  /** Frame pixels under a pointer, kept inside the frame. */
  at({ clientX, clientY }) {
    const area = this.#stage.getBoundingClientRect();
    const inside = (share, size) => Math.min(Math.max(share * size, 0), size - 1);
    return [
      inside((clientX - area.left) / area.width, this.frame.width),
      inside((clientY - area.top) / area.height, this.frame.height),
    ];
  }

  /** Leaves a mark where something was asked: [x, y] or a box, shown for a while, or until another frame comes. */
  mark(place, foreground, stays) {
    const marker = { place, foreground, stays, until: performance.now() + MARKER_MS };
    this.#markers.push(marker);
    if (!stays) setTimeout(() => this.redraw(), MARKER_MS + 20);
    this.redraw();
  }

  /** Takes away the marks that stayed on a frozen frame. */
  clearMarks() {
    this.#markers = [];
    this.redraw();
  }

  /** Draws what lies above the masks again, at the next opportunity. */
  redraw() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.#drawHud();
    });
  }

  #drawMasks() {
    const { width, height } = this.#masks;
    const context = this.#masks.getContext("2d");
    context.clearRect(0, 0, width, height);
    this.#boxes.clear();
    const line = Math.max(1, Math.round(width / 480));
    for (const object of this.frame.objects) {
      const box = object.mask && bounds(object.mask);
      if (box) this.#boxes.set(object.name, box);
    }
    const extent = ({ name }) => area(this.#boxes.get(name));
    const drawn = this.frame.objects.filter(({ name }) => this.#boxes.has(name));
    for (const object of drawn.sort((one, other) => extent(other) - extent(one))) {
      this.#drawMask(context, object, this.#boxes.get(object.name), line);
    }
    const box = this.#tried && bounds(this.#tried.mask);
    if (box) this.#drawMask(context, { ...this.#tried, colour: null }, box, line);
  }

  #drawMask(context, object, box, line) {
    const [left, top] = box;
    this.#fillInner(object, box);
    this.#fillOuter(object, box, line);
    context.drawImage(this.#outer, left - 3 * line, top - 3 * line);
    context.globalAlpha = object.check ? FILL_TO_CHECK : (FILL[object.state] ?? FILL.tracked);
    context.drawImage(this.#inner, left, top);
    context.globalAlpha = 1;
  }

  /** Fills #inner with a mask. */
  #fillInner(object, box) {
    const image = paintMask(object.mask, box, this.colour(object));
    [this.#inner.width, this.#inner.height] = [image.width, image.height];
    this.#inner.getContext("2d").putImageData(image, 0, 0);
  }

  /** Fills #outer with three lines around the mask of #inner, each `line` wide: the colour, a light and a dark one. */
  #fillOuter(object, [left, top], line) {
    const [outer, edge] = [this.#outer.getContext("2d"), 3 * line];
    [this.#outer.width, this.#outer.height] = [this.#inner.width + 2 * edge, this.#inner.height + 2 * edge];
    const path = new Path2D();
    columns(object.mask, (x, from, to) => path.rect(x - left + edge, from - top + edge, 1, to - from));
    outer.lineJoin = "round";
    for (const [lines, colour] of [[3, DARK], [2, LIGHT], [1, this.colour(object)]]) {
      outer.lineWidth = 2 * lines * line; // half of it lies outside
      outer.strokeStyle = colour;
      outer.stroke(path);
    }
    outer.globalCompositeOperation = "destination-out";
    outer.drawImage(this.#inner, edge, edge);
  }

  /** An object's colour; white for what is no object yet. */
  colour(object) {
    if (object.colour === null) return "#ffffff";
    return this.palette[object.colour % this.palette.length];
  }

  #drawHud() {
    const area = this.#stage.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    [this.#hud.width, this.#hud.height] = [Math.round(area.width * scale), Math.round(area.height * scale)];
    if (!this.frame) return;
    const context = this.#hud.getContext("2d");
    context.scale(scale, scale);
    const zoom = area.width / this.frame.width;
    if (this.#overlay) this.#drawOverlay(context, area, zoom);
    this.#markers = this.#markers.filter((marker) => marker.stays || marker.until > performance.now());
    for (const marker of this.#markers) drawMarker(context, marker, zoom);
    if (this.rubber) drawBox(context, this.rubber, zoom);
    if (this.crosshair) drawCrosshair(context, this.crosshair, zoom);
  }

  #drawOverlay(context, area, zoom) {
    for (const { box } of this.kept) drawKept(context, box, zoom);
    for (const box of this.#keepBoxes) drawKeepBox(context, box, zoom);
    const taken = [];
    for (const object of this.frame.objects) this.#drawLabel(context, object, area, taken);
  }

  /** The name of an object above its mask, in a size that does not depend on the frame's, below names that are
   * `taken` there already. */
  #drawLabel(context, object, area, taken) {
    const box = this.#boxes.get(object.name);
    if (!box) return;
    const zoom = area.width / this.#masks.width;
    const reason = reasonOf(object);
    const text = reason ? `${object.name}: check, ${reason}` : object.name;
    context.font = `${object.name === this.selected || reason ? 600 : 500} 12px system-ui, sans-serif`;
    const width = context.measureText(text).width + 26;
    const left = Math.min(Math.max(((box[0] + box[2]) / 2) * zoom - width / 2, 4), area.width - width - 4);
    let top = Math.max(box[1] * zoom - 26, 4);
    while (taken.some(([x, y, wide]) => left < x + wide && x < left + width && Math.abs(y - top) < 22)) top += 23;
    taken.push([left, top, width]);
    context.fillStyle = reason ? "#ffc454" : "rgb(13 15 18 / 78%)";
    context.beginPath();
    context.roundRect(left, top, width, 20, 10);
    context.fill();
    if (object.name === this.selected) {
      context.strokeStyle = this.colour(object);
      context.lineWidth = 1.5;
      context.stroke();
    }
    context.fillStyle = this.colour(object);
    context.beginPath();
    context.arc(left + 11, top + 10, 4, 0, 7);
    context.fill();
    context.fillStyle = reason ? DARK : LIGHT;
    context.textBaseline = "middle";
    context.fillText(text, left + 19, top + 10.5);
  }
}

/** Of bounds; what is smaller is drawn later, so that it stays visible on what is around it. */
function area([left, top, right, bottom]) {
  return (right - left) * (bottom - top);
}

function isCarried({ objects }) {
  const states = objects.map(({ state }) => state);
  return states.includes("carried") && !states.includes("tracked");
}

/** Hatches a window that stayed here: lines light and dark, to be seen on any ground. */
function drawKept(context, box, zoom) {
  const [x0, y0, x1, y1] = box.map((value) => value * zoom);
  context.save();
  context.beginPath();
  context.rect(x0, y0, x1 - x0, y1 - y0);
  context.clip();
  for (const [style, shift] of [["rgb(0 0 0 / 32%)", 1], ["rgb(255 255 255 / 42%)", 0]]) {
    context.beginPath();
    // All windows hatch along the same lines, x + y = n * HATCH_PX.
    for (let sum = Math.ceil((x0 + y0) / HATCH_PX) * HATCH_PX; sum < x1 + y1; sum += HATCH_PX) {
      context.moveTo(sum - y0 + shift, y0);
      context.lineTo(sum - y1 + shift, y1);
    }
    context.lineWidth = 1;
    context.strokeStyle = style;
    context.stroke();
  }
  context.lineWidth = 3; // half of it lies outside
  context.strokeStyle = "rgb(255 255 255 / 70%)";
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.restore();
}

function drawKeepBox(context, box, zoom) {
  const [x0, y0, x1, y1] = box.map((value) => value * zoom);
  for (const [style, width] of [["rgb(0 0 0 / 60%)", 4], ["#fff", 2]]) {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.setLineDash([7, 5]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([]);
  }
}

function drawMarker(context, { place, foreground }, zoom) {
  if (place.length === 4) {
    drawBox(context, place, zoom);
    return;
  }
  const [x, y] = place.map((value) => value * zoom);
  context.beginPath();
  context.arc(x, y, 7, 0, 7);
  context.fillStyle = foreground ? "#fff" : "#16191d";
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = foreground ? "#16191d" : "#fff";
  context.stroke();
  context.beginPath();
  context.moveTo(x - 3.5, y);
  context.lineTo(x + 3.5, y);
  if (foreground) {
    context.moveTo(x, y - 3.5);
    context.lineTo(x, y + 3.5);
  }
  context.stroke();
}

function drawBox(context, box, zoom) {
  const [x0, y0, x1, y1] = box.map((value) => value * zoom);
  const area = [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)];
  context.fillStyle = "rgb(255 255 255 / 10%)";
  context.fillRect(...area);
  context.lineWidth = 3;
  context.strokeStyle = "rgb(0 0 0 / 45%)";
  context.strokeRect(...area);
  context.lineWidth = 1.5;
  context.strokeStyle = "#fff";
  context.strokeRect(...area);
}

function drawCrosshair(context, place, zoom) {
  const [x, y] = place.map((value) => value * zoom);
  for (const [style, width] of [["rgb(0 0 0 / 55%)", 4], ["#fff", 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 14 * dx, y + 14 * dy);
    }
    context.stroke();
  }
}
