// COCO's compressed run-length encoding: runs of zeros and ones in turn, column by column.

/** Lengths of the runs; the first is of zeros. Each is five bits a character, from the lowest on, and from the
 * third run on the difference to the run before the last. */
export function runLengths(counts) {
  const runs = [];
  let at = 0;
  while (at < counts.length) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = counts.charCodeAt(at++) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16 && shift < 32) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** Calls back with (x, from, to) for each piece of a column that is set, `to` lying outside. */
export function columns(mask, paint) {
  const [height] = mask.size;
  let at = 0;
  let set = false;
  for (const length of runLengths(mask.counts)) {
    const end = at + length;
    while (set && at < end) {
      const x = Math.floor(at / height);
      const to = Math.min(end, (x + 1) * height);
      paint(x, at - x * height, to - x * height);
      at = to;
    }
    at = end;
    set = !set;
  }
}

/** Left, top, right, bottom of what is set, right and bottom lying outside; null when nothing is. */
export function bounds(mask) {
  let [top, bottom] = [Infinity, 0];
  let [left, right] = [Infinity, 0];
  columns(mask, (x, from, to) => {
    left = Math.min(left, x);
    right = Math.max(right, x + 1);
    top = Math.min(top, from);
    bottom = Math.max(bottom, to);
  });
  return right > 0 ? [left, top, right, bottom] : null;
}

/** ImageData of the part of a mask within its bounds, set pixels in a colour like "#56b4e9". */
export function paintMask(mask, [left, top, right, bottom], colour) {
  const image = new ImageData(right - left, bottom - top);
  const pixels = new Uint32Array(image.data.buffer);
  const value = packed(colour);
  columns(mask, (x, from, to) => {
    for (let y = from; y < to; y++) pixels[(y - top) * image.width + x - left] = value;
  });
  return image;
}

/** Red, green, blue and full alpha as the four bytes of a pixel lie in memory. */
function packed(colour) {
  const rgb = parseInt(colour.slice(1), 16);
  const bytes = new Uint8Array([rgb >> 16, (rgb >> 8) & 255, rgb & 255, 255]);
  return new Uint32Array(bytes.buffer)[0];
}
