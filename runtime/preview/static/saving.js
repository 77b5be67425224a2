// Files of the frame that is shown: the edge makes them in the frame's own pixels, the browser keeps them.

const PROMPTS = "prompts.json";

export class Saving {
  #dialog;
  #object;
  #told;
  #ask;
  #hold;
  #frame = null; // the number of the frame that was shown when the dialog was opened

  /** `ask(type, content)` sends a command; `hold(true)` keeps the shown frame until `hold(false)`. */
  constructor(dialog, { ask, hold }) {
    this.#dialog = dialog;
    this.#object = dialog.querySelector("select");
    this.#told = dialog.querySelector("[role=status]");
    this.#ask = ask;
    this.#hold = hold;
    for (const button of dialog.querySelectorAll("[data-file]")) {
      button.addEventListener("click", () => this.#save(button.dataset.file));
    }
    dialog.addEventListener("close", () => hold(false));
  }

  /** Opens the dialog on a frame, for one of its objects or, where `selected` is null, for all. */
  open({ number, objects }, selected) {
    this.#frame = number;
    this.#hold(true);
    const masked = objects.filter(({ mask }) => mask).map(({ name }) => name);
    this.#object.replaceChildren(new Option("all objects", ""), ...masked.map((name) => new Option(name, name)));
    this.#object.value = masked.includes(selected) ? selected : "";
    this.#told.textContent = "";
    this.#dialog.showModal();
  }

  async #save(file) {
    try {
      const made = file === PROMPTS ? await this.#prompts() : await this.#made(file);
      download(made);
      this.#told.textContent = `saved ${made.name}`;
    } catch (error) {
      this.#told.textContent = error.message;
    }
  }

  #made(file) {
    const name = this.#object.value;
    return this.#ask("save", { number: this.#frame, file, ...(name ? { name } : {}) });
  }

  /** A file that `pedsam run --prompts` reads. */
  async #prompts() {
    const objects = await this.#ask("prompts", {});
    const text = `${JSON.stringify({ objects }, null, 1)}\n`;
    return { name: PROMPTS, file: new Blob([text], { type: "application/json" }) };
  }
}

function download({ name, file }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // it is read after the click
}
