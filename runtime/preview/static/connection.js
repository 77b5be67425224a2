// The WebSocket to the preview, opened again whenever it breaks. PROTOCOL.md says what goes over it.

const PATH = "/v1/live";
const WRONG_TOKEN = 4401;
const TOO_MANY = 4429;
const RUN_ENDED = 1001;
const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 8000;
const FILES = { frame: "image/jpeg", holds: "image/png" }; // of binary messages

/** Gives "state" {state, text}, "hello", "status" (their messages), "frame" {header, file} with a JPEG file, and
 * "holds" {header, file} with a PNG file, which is empty where no pixels leave. Once the run has ended it stays
 * closed until `open` is called again. */
export class Connection extends EventTarget {
  #token;
  #socket = null;
  #asked = new Map();
  #nextId = 1;
  #waitMs = FIRST_WAIT_MS;
  #refusal = null;
  #ended = false; // and no other run has answered since

  constructor(token) {
    super();
    this.#token = token;
  }

  open() {
    if (!this.#token) {
      this.#tell("state", { state: "refused", text: "no token: open the address that the terminal shows" });
      return;
    }
    this.#tell("state", { state: "connecting", text: "connecting" });
    const address = new URL(PATH, location.href);
    address.protocol = location.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ type: "hello", token: this.#token }));
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#text(data) : this.#binary(data));
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#socket = socket;
  }

  /** Sends a command; resolves to the name in its answer, for "try" to the object that would be found, for "save" to
   * {name, file}, for "prompts" to the objects, or rejects with the sentence that refuses it. */
  ask(type, content) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Error("not connected"));
    const id = this.#nextId++;
    this.#socket.send(JSON.stringify({ type, id, ...content }));
    return new Promise((resolve, reject) => this.#asked.set(id, { resolve, reject }));
  }

  /** Says that a frame was shown, which asks for the next. */
  shown(number) {
    this.#say({ type: "shown", number });
  }

  /** Asks for what an operator holds once it is newer than `after`; null takes that back. */
  look(operator, after) {
    this.#say(operator === null ? { type: "look", operator } : { type: "look", operator, after });
  }

  #say(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #text(data) {
    const message = JSON.parse(data);
    if (message.type === "hello") {
      this.#waitMs = FIRST_WAIT_MS;
      this.#refusal = null;
      this.#ended = false;
      this.#tell("state", { state: "live", text: "live" });
      this.#tell("hello", message);
    } else if (message.type === "status") {
      this.#tell("status", message);
    } else if (message.type === "done") {
      this.#settle(message.id, (asked) => asked.resolve(message.name));
    } else if (message.type === "prompts") {
      this.#settle(message.id, (asked) => asked.resolve(message.objects));
    } else if (message.type === "tried") {
      this.#settle(message.id, (asked) => asked.resolve(message.object));
    } else if (message.type === "error") {
      if (message.id === null) this.#refusal = message.text;
      this.#settle(message.id, (asked) => asked.reject(new Error(message.text)));
    }
  }

  #binary(data) {
    const length = new DataView(data).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const file = (type) => new Blob([new Uint8Array(data, 4 + length)], { type });
    const type = FILES[header.type];
    if (type) this.#tell(header.type, { header, file: file(type) });
    if (header.type === "file") {
      this.#settle(header.id, (asked) => asked.resolve({ name: header.name, file: file(header.media) }));
    }
  }

  #settle(id, how) {
    const asked = this.#asked.get(id);
    this.#asked.delete(id);
    if (asked) how(asked);
  }

  #closed(code, reason) {
    for (const { reject } of this.#asked.values()) reject(new Error("the connection broke"));
    this.#asked.clear();
    if (code === WRONG_TOKEN) {
      const text = "wrong token: open the address that the terminal shows now";
      this.#tell("state", { state: "refused", text });
      return;
    }
    if (code === RUN_ENDED || this.#ended) {
      const text = this.#ended ? "the run has ended, and none is here in its place" : reason || "the run has ended";
      this.#ended = true;
      this.#tell("state", { state: "ended", text });
      return;
    }
    if (code === TOO_MANY) this.#waitMs = LONGEST_WAIT_MS;
    const text = this.#refusal ?? "not connected, trying again";
    this.#tell("state", { state: "lost", text });
    setTimeout(() => this.open(), this.#waitMs);
    this.#waitMs = Math.min(2 * this.#waitMs, LONGEST_WAIT_MS);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
