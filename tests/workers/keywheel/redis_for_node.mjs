// What the snippets of docs/enqueueing.md and docs/managing-jobs.md need of the package `redis`, over a real connection: the tests install nothing.
import net from "node:net";

export function createClient({ url }) {
  const { hostname, port } = new URL(url);
  const waiting = [];
  let socket, rest = Buffer.alloc(0);

  function reply() {
    const end = rest.indexOf("\r\n");
    if (end < 0) return undefined;
    const [kind, text] = [String.fromCharCode(rest[0]), rest.toString("utf8", 1, end)];
    if (kind !== "$" || text === "-1") {
      rest = rest.subarray(end + 2);
      return kind === "$" ? null : text;
    }
    const last = end + 2 + Number(text);
    if (rest.length < last + 2) return undefined;
    const found = rest.toString("utf8", end + 2, last);
    rest = rest.subarray(last + 2);
    return found;
  }

  function send(...words) {
    socket.write(`*${words.length}\r\n${words.map((one) => `$${Buffer.byteLength(one)}\r\n${one}\r\n`).join("")}`);
    return new Promise((done) => waiting.push(done));
  }

  return {
    async connect() {
      socket = net.connect(Number(port), hostname);
      socket.on("data", (data) => {
        rest = Buffer.concat([rest, data]);
        for (let found; (found = reply()) !== undefined; ) waiting.shift()(found);
      });
      await new Promise((done) => socket.once("connect", done));
      return this;
    },
    get: (name) => send("GET", name),
    set: (name, value, { EX }) => send("SET", name, value, "EX", String(EX)),
    lPush: (name, value) => send("LPUSH", name, value),
    publish: (name, value) => send("PUBLISH", name, value),
    async close() { socket.end(); },
  };
}
