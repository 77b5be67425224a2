// What fingers, pens, mice and arrow keys on the picture mean: a point, a background point or a box.

const TAP_PX = 8;
const LONG_PRESS_MS = 450;
const STEP = 0.02; // of the picture's longer side, for an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Calls onPoint([x, y], background) and onBox([x0, y0, x1, y1]), both in frame pixels. */
export class Gestures {
  #stage;
  #picture;
  #onPoint;
  #onBox;
  #down = null; // {id, x, y, from, shift} of the one pointer that draws
  #fingers = new Set();
  #timer = 0;

  constructor(stage, picture, onPoint, onBox) {
    this.#stage = stage;
    this.#picture = picture;
    this.#onPoint = onPoint;
    this.#onBox = onBox;
    stage.addEventListener("pointerdown", (event) => this.#press(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#release(event));
    stage.addEventListener("pointercancel", (event) => this.#forget(event));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("keydown", (event) => this.#key(event));
    stage.addEventListener("blur", () => this.#aim(null));
  }

  #press(event) {
    if (!this.#picture.frame || event.button !== 0) return;
    this.#fingers.add(event.pointerId);
    if (this.#fingers.size > 1) {
      this.#stop(); // two fingers zoom the page
      return;
    }
    this.#stage.setPointerCapture(event.pointerId);
    this.#aim(null);
    const { clientX: x, clientY: y, pointerId: id, shiftKey: shift } = event;
    this.#down = { id, x, y, from: this.#picture.at(event), shift };
    if (event.pointerType !== "mouse") this.#timer = setTimeout(() => this.#longPress(), LONG_PRESS_MS);
  }

  #move(event) {
    if (this.#down?.id !== event.pointerId || !this.#isDrag(event)) return;
    clearTimeout(this.#timer);
    this.#picture.rubber = [...this.#down.from, ...this.#picture.at(event)];
    this.#picture.redraw();
  }

  #release(event) {
    this.#fingers.delete(event.pointerId);
    if (this.#down?.id !== event.pointerId) return;
    const { from, shift } = this.#down;
    const dragged = this.#picture.rubber !== null || this.#isDrag(event);
    const to = this.#picture.at(event);
    this.#stop();
    if (!dragged) this.#onPoint(from, shift);
    else if (from[0] !== to[0] && from[1] !== to[1]) this.#onBox(ordered(from, to));
  }

  #forget(event) {
    this.#fingers.delete(event.pointerId);
    this.#stop();
  }

  #longPress() {
    const { from } = this.#down;
    this.#stop();
    navigator.vibrate?.(15);
    this.#onPoint(from, true);
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#down = null;
    this.#picture.rubber = null;
    this.#picture.redraw();
  }

  #isDrag({ clientX, clientY }) {
    return Math.hypot(clientX - this.#down.x, clientY - this.#down.y) > TAP_PX;
  }

  #key(event) {
    const frame = this.#picture.frame;
    if (!frame) return;
    const at = this.#picture.crosshair ?? [frame.width / 2, frame.height / 2];
    if (event.key in ARROWS) {
      const step = STEP * Math.max(frame.width, frame.height);
      const [dx, dy] = ARROWS[event.key];
      this.#aim([
        Math.min(Math.max(at[0] + dx * step, 0), frame.width - 1),
        Math.min(Math.max(at[1] + dy * step, 0), frame.height - 1),
      ]);
    } else if (event.key === "Enter" && this.#picture.crosshair) {
      this.#onPoint(at, event.shiftKey);
    } else {
      return;
    }
    event.preventDefault();
  }

  #aim(place) {
    this.#picture.crosshair = place;
    this.#picture.redraw();
  }
}

function ordered([x0, y0], [x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}
