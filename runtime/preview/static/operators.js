// A colour for each operator: Paul Tol's "light" scheme, safe for colour-blind eyes, apart from those of objects.

const COLOURS = ["#77aadd", "#ee8866", "#44bb99", "#eedd88", "#ffaabb", "#bbcc33", "#99ddff", "#aaaa00"];

/** Operator names of a status in a fixed order, by the sites they run. */
export function operatorsOf(status) {
  return [...new Set([...status.sites.map((site) => site.operator), ...Object.keys(status.caps)])];
}

export function operatorColour(operators, name) {
  return COLOURS[Math.max(0, operators.indexOf(name)) % COLOURS.length];
}
