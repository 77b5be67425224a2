// A colour for each operator: Paul Tol's "light" scheme, safe for colour-blind eyes, apart from those of objects.

import { element } from "./elements.js";

const COLOURS = ["#77aadd", "#ee8866", "#44bb99", "#eedd88", "#ffaabb", "#bbcc33", "#99ddff", "#aaaa00"];

/** Operator names of a status in a fixed order, by the sites they run. */
export function operatorsOf(status) {
  return [...new Set([...status.sites.map((site) => site.operator), ...Object.keys(status.caps)])];
}

/** An operator as it is named everywhere: its letter on its colour, its name, and its sites. */
export function operatorLabel(operators, name, sites) {
  const sign = element("span", "swatch", initial(name, operators));
  sign.style.setProperty("background", operatorColour(operators, name));
  sign.setAttribute("aria-hidden", "true");
  const which = sites.length ? `${sites.length === 1 ? "site" : "sites"} ${sites.join(", ")}` : "";
  return [sign, element("b", "", name), element("small", "", which)];
}

/** The names of the sites that an operator runs. */
export function sitesOf(status, name) {
  return status.sites.filter(({ operator }) => operator === name).map((site) => site.name);
}

/** One character for an operator: the first after what all names begin with, or its place in the row. */
export function initial(name, operators) {
  let shared = 0;
  while (operators.length > 1 && operators.every((other) => other[shared] && other[shared] === name[shared])) shared++;
  const own = (operator) => operator[shared] ?? "";
  const alone = operators.filter((other) => own(other) === own(name)).length === 1;
  return alone && own(name) ? own(name) : String(operators.indexOf(name) + 1);
}

export function operatorColour(operators, name) {
  return COLOURS[Math.max(0, operators.indexOf(name)) % COLOURS.length];
}

/** A share of the picture, 0 to 1, for a person. */
export function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}

/** What an operator has of the picture, by `shares` of a status. */
export function sharesOf({ seen, may_see, at_most }) {
  const most = at_most > may_see ? `, at most ${percent(at_most)} if others fail` : "";
  return `of the picture's area: seen ${percent(seen)}, may see ${percent(may_see)}${most}`;
}
