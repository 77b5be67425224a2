// Going through a file: play and pause, one frame on or back, and to any place.

const SEEK_MS = 80; // between two places asked for while the slider is drawn along

/** Shows where a file is by `player` of a status, and asks to move through it; hidden where frames come by
 * themselves. `ask(type, content)` sends a command. */
export class Player {
  #at;
  #ask;
  #now = null; // the newest `player` of a status
  #sought = null; // seconds that are still to be asked for
  #timer = 0;

  /** `at`: row, back, play, on, place (a slider) and time. */
  constructor(at, ask) {
    this.#at = at;
    this.#ask = ask;
    at.play.addEventListener("click", () => this.toggle());
    at.back.addEventListener("click", () => this.step(-1));
    at.on.addEventListener("click", () => this.step(1));
    at.place.addEventListener("input", () => this.#seek(Number(at.place.value)));
  }

  /** Whether a file is gone through here; frames of anything else come by themselves. */
  get there() {
    return this.#now !== null;
  }

  /** Whether the frame that is shown stays until somebody moves on. */
  get stands() {
    return this.#now !== null && !this.#now.playing;
  }

  update(now) {
    const { row, play, place, time, back, on } = this.#at;
    this.#now = now ?? null;
    row.hidden = !now || now.end_s <= 0;
    if (row.hidden) return;
    play.hidden = now.pictures;
    play.textContent = now.playing ? "Pause" : "Play";
    play.setAttribute("aria-pressed", now.playing);
    const what = now.pictures ? "picture" : "frame";
    [back.title, on.title] = [`one ${what} back`, `one ${what} on`];
    back.setAttribute("aria-label", back.title);
    on.setAttribute("aria-label", on.title);
    place.max = now.end_s;
    place.step = now.pictures ? now.step_s : "any";
    const sliding = document.activeElement === place && (this.#sought !== null || this.#timer);
    if (!sliding) place.value = now.time_s;
    const text = now.pictures ? ofPictures(now) : `${clock(now.time_s)} / ${clock(now.end_s)}`;
    time.textContent = text;
    place.setAttribute("aria-valuetext", text);
  }

  toggle() {
    if (this.#now && !this.#now.pictures) this.#ask("play", { playing: !this.#now.playing });
  }

  step(by) {
    if (this.#now) this.#ask("step", { by });
  }

  /** Goes to a place. While the slider moves only some of its places are asked for, and the last one. */
  #seek(time_s) {
    this.#sought = time_s;
    if (this.#timer) return;
    this.#ask("seek", { time_s });
    this.#sought = null;
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      if (this.#sought !== null) this.#seek(this.#sought);
    }, SEEK_MS);
  }
}

function ofPictures({ time_s, end_s, step_s }) {
  const number = (seconds) => Math.round(seconds / step_s) + 1;
  return `${number(time_s)} of ${number(end_s)}`;
}

/** Minutes, seconds and a tenth. */
function clock(seconds) {
  const tenths = Math.floor(seconds * 10 + 1e-6);
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}
