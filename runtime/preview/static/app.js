// The page: what comes over the connection is shown, what the viewer does is sent.

import { showBoard } from "./board.js";
import { Connection } from "./connection.js";
import { Exposure } from "./exposure.js";
import { Gestures } from "./gestures.js";
import { Held } from "./held.js";
import { Objects } from "./objects.js";
import { Picture } from "./picture.js";
import { Player } from "./player.js";
import { Saving } from "./saving.js";
import { Choices, Hover } from "./still.js";
import { Strip } from "./strip.js";
import { checksOf } from "./trust.js";

const NOTICE_MS = 6000;
const CLICK = matchMedia("(pointer: coarse)").matches ? "tap" : "click";
const at = (id) => document.getElementById(id);

const connection = new Connection(takeToken());
const picture = new Picture(at("stage"));
const objects = new Objects(at("objects"), picture, { select, rename, remove, confirm });
const strip = new Strip(at("strip"), at("frame-bar"));
const exposure = new Exposure(at("grid"), at("legend"));
const held = new Held(
  {
    buttons: at("operators"),
    body: at("held"),
    canvas: at("held-picture"),
    share: at("held-share"),
    age: at("held-age"),
    text: at("held-text"),
  },
  (operator, after) => connection.look(operator, after),
);
const saving = new Saving(at("save-dialog"), { ask: (...given) => connection.ask(...given), hold });
const player = new Player(
  { row: at("player"), back: at("back"), play: at("play"), on: at("on"), place: at("place"), time: at("time") },
  ask,
);
const choices = new Choices(at("choices"), picture, choose);
const hover = new Hover(at("stage"), picture, tryable, (content) => connection.ask("try", content));
new Gestures(at("stage"), picture, point, box);

let status = null;
let frozen = null; // the number of the frame that is held, or null
let heldStill = false; // while something is saved of the frame that is shown
let background = false;
let waiting = null; // a frame that came while nobody saw it
let noticeTimer = 0;
let known = new Set(); // names on the last frame that had objects

/** The token from the fragment of the address; kept for reloads of this tab, gone from the address bar. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return given ?? sessionStorage.getItem("token");
}

connection.addEventListener("state", ({ detail }) => {
  at("connection").dataset.state = detail.state;
  at("connection").textContent = detail.text;
  const live = detail.state === "live";
  at("pause").disabled = !live;
  at("save").disabled = !live;
  at("again").hidden = detail.state !== "ended";
  at("stage").classList.toggle("offline", !live && picture.frame !== null);
  if (!live) at("veil").textContent = detail.text;
});

connection.addEventListener("hello", ({ detail }) => {
  picture.palette = detail.palette;
  at("model").textContent = detail.model;
  at("banner").textContent = detail.banner ?? "";
  at("banner").hidden = !detail.banner;
  at("veil").textContent = "waiting for the first frame";
  waiting = null;
  showFrozen(null); // the preview holds nothing for a connection that is new
  strip.clear();
  held.reset();
});

connection.addEventListener("frame", ({ detail }) => {
  waiting = detail;
  goOn();
});

connection.addEventListener("holds", ({ detail }) => held.show(detail.header, detail.file));

document.addEventListener("visibilitychange", () => {
  goOn();
  held.ask();
});

/** Shows the frame that waits, and asks for the next, unless nobody sees it. While one is frozen others that were
 * under way are left out; it comes anew whenever its masks change. */
async function goOn() {
  if (!waiting || heldStill || document.hidden) return;
  const { header, file } = waiting;
  waiting = null;
  const bitmap = await createImageBitmap(file);
  if (!heldStill && (frozen === null || frozen === header.number)) {
    picture.show(header, bitmap);
    at("unread").textContent = header.lost ?? "";
    at("unread").hidden = !header.lost;
    at("doubtful").hidden = !header.doubtful;
    showKept();
    if (!status?.paused || header.objects.length) showObjects(header.objects);
  }
  bitmap.close();
  connection.shown(header.number);
}

/** While sending is paused frames come without objects; the row then keeps those it had. */
function showObjects(found) {
  if (objects.selected !== null && !found.some(({ name }) => name === objects.selected)) {
    if (known.has(objects.selected)) select(null);
  }
  known = new Set(found.map(({ name }) => name));
  objects.update(found);
  showChoices();
  const checks = checksOf(found);
  if (at("checks").textContent !== checks) at("checks").textContent = checks; // or it would be read out again
}

/** The masks that the selected object's only point may mean, on the frame that has it. */
function showChoices() {
  choices.update(picture.frame?.objects.find(({ name }) => name === objects.selected) ?? null);
}

connection.addEventListener("status", ({ detail }) => {
  status = detail;
  at("fps").textContent = number(status.fps, 1);
  at("latency").textContent = Number.isFinite(status.latency_ms) ? `${number(status.latency_ms, 0)} ms` : "–";
  at("dropped").textContent = `${status.dropped} / ${status.lost}`;
  at("viewers").textContent = status.viewers;
  at("limit").textContent = status.limited_by ? `limited by ${status.limited_by}` : "";
  if (at("message").textContent !== (status.message ?? "")) at("message").textContent = status.message ?? "";
  document.body.classList.toggle("local", status.sites.length === 0); // nothing is sent, so nothing can be paused
  at("paused").hidden = !status.paused;
  at("pause").setAttribute("aria-pressed", status.paused);
  at("pause").firstChild.data = status.paused ? "Resume" : "Pause";
  showDoubts(status.doubtful);
  showBoard(status.board, at("board"), at("board-warning"));
  player.update(status.player);
  at("freeze").hidden = player.there;
  at("undo").disabled = !status.undoable;
  at("redo").disabled = !status.redoable;
  strip.update(status);
  exposure.update(status);
  held.update(status);
  picture.keepBoxes = status.keep_boxes;
});

/** How many windows of the picture that is shown stayed here. */
function showKept() {
  const { length } = picture.kept;
  const text = length ? `${length} ${length === 1 ? "window" : "windows"} kept here` : "";
  if (at("kept").textContent !== text) at("kept").textContent = text;
  at("kept").hidden = !text || !picture.overlay;
}

function showDoubts(frames) {
  const text = frames ? `a site lied: ${frames} ${frames === 1 ? "frame is" : "frames are"} in doubt` : "";
  if (at("doubts").textContent !== text) at("doubts").textContent = text;
  at("doubts").hidden = !text;
}

function number(value, digits) {
  return Number.isFinite(value) ? value.toFixed(digits) : "–";
}

async function point(place, shift) {
  if (picture.frame.lost) return; // there is nothing to point at
  const foreground = !(shift || background);
  if (!foreground && objects.selected === null) {
    notice("a background point belongs to an object: select one first");
    return;
  }
  picture.mark(place, foreground, stands());
  await prompt({ points: [[...place, foreground ? 1 : 0]] });
}

async function box(corners) {
  if (picture.frame.lost) return;
  picture.mark(corners, true, stands());
  await prompt({ box: corners });
}

/** Whether the picture stays as it is: each prompt then shows on it at once. */
function stands() {
  return frozen !== null || player.stands;
}

/** What a click would ask at this place of a frame that stands; null where nothing is to be tried. */
function tryable(place) {
  if (!stands() || (background && objects.selected === null)) return null;
  return promptOf({ points: [[...place, background ? 0 : 1]] });
}

/** On the frame that is shown, for the selected object or a new one. */
function promptOf(content) {
  const name = objects.selected;
  return { number: picture.frame.number, ...(name === null ? {} : { name }), ...content };
}

async function prompt(content) {
  const name = objects.selected;
  const made = await ask("prompt", promptOf(content));
  if (made !== undefined && objects.selected === name) select(made);
}

async function choose(mask) {
  if (objects.selected !== null) await ask("choose", { name: objects.selected, mask });
}

/** Undoes or redoes what was asked last; marks of points then lie no more where the mask has them from. */
async function again(type) {
  const name = await ask(type, {});
  if (name === undefined) return;
  picture.clearMarks();
  select(name);
}

async function rename(name, fresh) {
  const made = await ask("rename", { name, new: fresh });
  if (made === undefined) {
    objects.select(objects.selected);
    return;
  }
  known.delete(name);
  if (objects.selected === name) select(made);
}

async function remove(name) {
  if ((await ask("remove", { name })) === undefined) return;
  if (objects.selected === name) select(null);
  known.delete(name);
  if (status?.paused) objects.drop(name);
}

/** An object's mask on the frame that is shown is right: its mark goes, and it is followed from here. */
async function confirm(name) {
  await ask("confirm", { number: picture.frame.number, name });
}

/** Sends a command; undefined, after a notice, when it is refused. */
async function ask(type, content) {
  try {
    return await connection.ask(type, content);
  } catch (error) {
    notice(error.message);
    return undefined;
  }
}

function select(name) {
  objects.select(name);
  showChoices();
  const start = `${CLICK} or drag to start an object`;
  const hints = background ? ["select an object first", "mark the background of"] : [start, "refine"];
  at("hint").textContent = name === null ? hints[0] : `${CLICK} to ${hints[1]} “${name}”`;
}

function notice(text) {
  at("notice").textContent = text;
  at("notice").hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (at("notice").hidden = true), NOTICE_MS);
}

function setBackground(value) {
  background = value;
  at("foreground").setAttribute("aria-pressed", !value);
  at("background").setAttribute("aria-pressed", value);
  select(objects.selected);
}

/** Holds the frame that is shown, or lets it go; of a file, plays or pauses it. */
async function freeze() {
  if (player.there) {
    player.toggle();
    return;
  }
  const number = frozen === null ? (picture.frame?.number ?? null) : null;
  showFrozen(number);
  if ((await ask("hold", { number })) === undefined) showFrozen(null);
}

function showFrozen(number) {
  frozen = number;
  at("freeze").setAttribute("aria-pressed", frozen !== null);
  at("freeze").textContent = frozen !== null ? "Unfreeze" : "Freeze";
  at("frozen").hidden = frozen === null;
  hover.clear();
  if (frozen === null) picture.clearMarks();
}

/** Keeps the frame that is shown, or goes on. */
function hold(value) {
  heldStill = value;
  goOn();
}

function save() {
  if (picture.frame && !at("save").disabled) saving.open(picture.frame, objects.selected);
}

/** Shows or hides what is drawn over the picture: masks, names, and what is kept. */
function toggleOverlay() {
  picture.overlay = !picture.overlay;
  at("overlay").setAttribute("aria-pressed", picture.overlay);
  showKept();
}

function pause() {
  if (status?.sites.length) ask("pause", { paused: !status.paused });
}

at("foreground").addEventListener("click", () => setBackground(false));
at("background").addEventListener("click", () => setBackground(true));
at("freeze").addEventListener("click", freeze);
at("overlay").addEventListener("click", toggleOverlay);
at("pause").addEventListener("click", pause);
at("save").addEventListener("click", save);
at("again").addEventListener("click", () => connection.open());
at("undo").addEventListener("click", () => again("undo"));
at("redo").addEventListener("click", () => again("redo"));
at("help").addEventListener("click", () => at("help-dialog").showModal());

const KEYS = {
  " ": freeze,
  p: pause,
  m: toggleOverlay,
  s: save,
  r: () => objects.selected !== null && confirm(objects.selected),
  b: () => setBackground(!background),
  c: () => choices.cycle(),
  ",": () => player.step(-1),
  ".": () => player.step(1),
  n: () => select(null),
  escape: () => select(null),
  delete: () => objects.selected !== null && remove(objects.selected),
  backspace: () => objects.selected !== null && remove(objects.selected),
  f2: () => objects.edit(),
  "?": () => at("help-dialog").showModal(),
};

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  const [typing, dialog] = [target.matches("input:not([type=range]), select"), document.querySelector("dialog[open]")];
  const undoing = (event.ctrlKey || event.metaKey) && !event.altKey && !typing && !dialog;
  if (undoing && ["z", "y"].includes(key.toLowerCase())) {
    event.preventDefault();
    again(key.toLowerCase() === "z" && !event.shiftKey ? "undo" : "redo");
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || dialog || typing) return;
  if (target.matches("button") && (key === " " || key === "Enter")) return;
  const act = /^[1-9]$/.test(key) ? () => select(objects.named(key - 1)) : KEYS[key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

select(null);
connection.open();
