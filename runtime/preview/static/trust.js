// What is said of a mask that a person should look at.

const REASONS = {
  grew: "suddenly larger",
  shrank: "suddenly smaller",
  jumped: "jumped",
  unsure: "unsure",
};

/** Why an object is to be checked, in words; null where it need not be. */
export function reasonOf({ check }) {
  return check ? (REASONS[check] ?? check) : null;
}

/** What a person who does not see the page is told of these objects: "" while none is to be checked. */
export function checksOf(objects) {
  const marked = objects.filter(({ check }) => check);
  return marked.map((object) => `check ${object.name}: ${reasonOf(object)}`).join("; ");
}
