// The row of objects: one chip each with colour, name, state and how sure its mask is; the selected one can be renamed
// and removed, and one that is to be checked can be said to be right.

import { element } from "./elements.js";
import { percent } from "./operators.js";
import { reasonOf } from "./trust.js";

const STATES = { tracked: "", carried: "carried along", lost: "lost", asked: "asked for" };

export class Objects {
  selected = null; // a name, or null: the next point starts a new object
  #list;
  #picture;
  #actions;
  #shown = [];
  #drawn = "";

  /** `actions`: select(name or null), rename(name, new), remove(name) and confirm(name). */
  constructor(list, picture, actions) {
    this.#list = list;
    this.#picture = picture;
    this.#actions = actions;
    this.#render();
  }

  /** Shows these objects of a frame. */
  update(objects) {
    this.#shown = objects;
    this.#render();
    for (const object of objects) this.#showConfidence(object);
  }

  /** Takes one out before a frame says so. */
  drop(name) {
    this.update(this.#shown.filter((object) => object.name !== name));
  }

  select(name) {
    this.selected = name;
    this.#picture.selected = name;
    this.#picture.redraw();
    this.#render();
  }

  /** The name of the object in this place of the row, from 0 on. */
  named(place) {
    return this.#shown[place]?.name ?? null;
  }

  /** Turns the name of the selected chip into a field. */
  edit() {
    const chip = this.#list.querySelector(".chip.selected");
    if (!chip || this.selected === null) return;
    const field = document.createElement("input");
    field.value = this.selected;
    field.maxLength = 40;
    field.setAttribute("aria-label", `new name of ${this.selected}`);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") field.blur();
      if (event.key === "Escape") field.value = this.selected;
      if (event.key === "Escape") field.blur();
      event.stopPropagation();
    });
    field.addEventListener("blur", () => this.#edited(field.value.trim()), { once: true });
    chip.querySelector(".name").replaceWith(field);
    field.focus();
    field.select();
  }

  #edited(name) {
    const old = this.selected;
    this.#drawn = "";
    if (name && name !== old) this.#actions.rename(old, name);
    this.#render();
    this.#list.querySelector(".chip.selected .choose")?.focus();
  }

  /** What frames have shown and, while none has yet, the object that was asked for last. */
  #known() {
    const missing = this.selected !== null && !this.#shown.some(({ name }) => name === this.selected);
    return missing ? [...this.#shown, { name: this.selected, colour: null, state: "asked" }] : this.#shown;
  }

  #render() {
    const known = this.#known();
    const drawn = JSON.stringify([this.selected, this.#picture.palette, known.map(essence)]);
    const editing = this.#list.contains(document.activeElement) && document.activeElement.matches("input");
    if (drawn === this.#drawn || editing) return;
    this.#drawn = drawn;
    const focus = this.#list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.#list.replaceChildren(...known.map((object) => this.#chip(object)), this.#newChip());
    for (const object of this.#shown) this.#showConfidence(object);
    if (!focus) return;
    const same = [...this.#list.querySelectorAll("button")].find(({ dataset }) => dataset.key === focus);
    (same ?? this.#list.querySelector(".chip.selected .choose"))?.focus(); // its name may be another by now
  }

  #chip(object) {
    const chip = document.createElement("li");
    const chosen = object.name === this.selected;
    chip.className = `chip ${object.state} ${object.check ? "check" : ""} ${chosen ? "selected" : ""}`;
    chip.dataset.name = object.name;
    if (object.colour !== null) chip.style.setProperty("--colour", this.#picture.colour(object));
    const choose = button("choose", object.name, () => this.#actions.select(object.name));
    choose.setAttribute("aria-pressed", chosen);
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = object.name;
    choose.append(element("span", "dot"), name);
    if (STATES[object.state]) choose.append(element("small", "", STATES[object.state]));
    if (object.check) choose.append(element("small", "reason", `check: ${reasonOf(object)}`));
    choose.append(element("span", "sure"));
    chip.append(choose);
    if (object.check) chip.append(this.#confirm(object));
    if (chosen) chip.append(this.#tool("rename", "✎", object, () => this.edit()));
    chip.append(this.#tool("remove", "×", object, () => this.#actions.remove(object.name)));
    return chip;
  }

  /** Says that the mask is right as it is. */
  #confirm(object) {
    const made = button("confirm", object.name, () => this.#actions.confirm(object.name));
    made.textContent = "Right as it is";
    made.title = "take this mask as the new reference: the mark goes, and the object is followed from here";
    return made;
  }

  /** In place, since it changes with every frame. */
  #showConfidence({ name, state, confidence }) {
    const place = [...this.#list.children].find(({ dataset }) => dataset.name === name)?.querySelector(".sure");
    if (!place) return;
    const text = state === "lost" || !Number.isFinite(confidence) ? "" : percent(confidence);
    if (place.textContent === text) return;
    place.textContent = text;
    place.title = text && `how sure this mask is: ${text}`;
  }

  #tool(what, sign, object, act) {
    const tool = button(what, `${what} ${object.name}`, act);
    tool.textContent = sign;
    tool.setAttribute("aria-label", `${what} ${object.name}`);
    tool.title = what;
    return tool;
  }

  #newChip() {
    const chip = document.createElement("li");
    chip.className = `chip new ${this.selected === null ? "selected" : ""}`;
    const choose = button("choose", "+", () => this.#actions.select(null));
    choose.setAttribute("aria-pressed", this.selected === null);
    choose.textContent = "+ New object";
    chip.append(choose);
    return chip;
  }
}

function essence({ name, colour, state, check }) {
  return [name, colour, state, check];
}

function button(kind, key, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = kind;
  made.dataset.key = `${kind} ${key}`;
  made.addEventListener("click", act);
  return made;
}
