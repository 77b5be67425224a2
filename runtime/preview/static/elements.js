// Elements made in code. Whatever comes from elsewhere is put in as text.

export function element(tag, kind = "", text = null) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== null) made.textContent = text;
  return made;
}
