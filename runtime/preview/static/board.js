// The line of the board under the edge, where the edge runs on one that tells: GPU, memory, heat and watts.

/** `board` of a status, null or undefined where nothing tells of it; `warning` is shown while there is one. */
export function showBoard(board, line, warning) {
  const parts = board ? partsOf(board) : [];
  line.hidden = parts.length === 0;
  line.textContent = parts.join(" · ");
  line.title = board ? zones(board) : "";
  const warnings = board?.warnings ?? [];
  warning.hidden = warnings.length === 0;
  const text = warnings.join("; ");
  if (warning.textContent !== text) warning.textContent = text; // or it would be read out at every status
}

function partsOf(board) {
  const hottest = Math.max(...Object.values(board.temperatures_c));
  return [
    Number.isFinite(board.gpu_percent) && `GPU ${board.gpu_percent} %`,
    `${gigabytes(board.memory_used_mb)} of ${gigabytes(board.memory_total_mb)} GB`,
    Number.isFinite(hottest) && `${hottest.toFixed(0)} °C`,
    Number.isFinite(board.board_power_mw) && `${(board.board_power_mw / 1000).toFixed(1)} W`,
  ].filter(Boolean);
}

function zones(board) {
  return Object.entries(board.temperatures_c)
    .map(([zone, degrees]) => `${zone} ${degrees.toFixed(1)} °C`)
    .join(", ");
}

function gigabytes(megabytes) {
  return (megabytes / 1024).toFixed(1);
}
