// A colour for each operator: Paul Tol's "light" scheme, safe for colour-blind eyes, apart from those of objects.

const COLOURS = ["#77aadd", "#ee8866", "#44bb99", "#eedd88", "#ffaabb", "#bbcc33", "#99ddff", "#aaaa00"];

/** Operator names of a status in a fixed order, by the sites they run. */
export function operatorsOf(status) {
  return [...new Set([...status.sites.map((site) => site.operator), ...Object.keys(status.caps)])];
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
