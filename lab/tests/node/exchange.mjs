// One end of a WebSocket that has been through everything, of the `ws` package; what python/exchange.py
// is of `websockets`, with the same three commands and the same conversation.
import { createRequire } from "node:module";
import { randomBytes } from "node:crypto";

// Packages come from NODE_PATH, which only require() looks at.
const { WebSocket, WebSocketServer } = createRequire(import.meta.url)("ws");
const MIB = 1 << 20;
const deflate = { perMessageDeflate: { threshold: 0 }, maxPayload: 0 };

function serve(port) {
  let last = "nothing";
  new WebSocketServer({ host: "127.0.0.1", port, ...deflate }).on("connection", (socket, request) => {
    socket.on("message", (data, binary) => {
      const text = binary ? "" : data.toString();
      const [word, ...words] = text.split(" ");
      if (word === "close") socket.close(Number(words[0]), words.slice(1).join(" "));
      else if (word === "ping") {
        socket.once("pong", (payload) => socket.send(`pong ${payload}`));
        socket.ping(words.join(" "));
      } else if (word === "last") socket.send(last);
      else socket.send(data, { binary });
    });
    socket.on("close", (code, reason) => {
      // 1005 stands for none.
      if (!request.url.endsWith("quiet")) last = `${code} ${reason}`;
    });
    socket.on("error", () => {});
  });
}

function expect(what, seen, wanted) {
  if (seen === wanted) return;
  console.error(`${what}: expected ${String(wanted).slice(0, 200)}, saw ${String(seen).slice(0, 200)}`);
  process.exit(1);
}

/// A session whose events are awaited one by one.
function open(url) {
  const socket = new WebSocket(url, deflate);
  const heard = [];
  let wake = () => {};
  const hear = (event) => {
    heard.push(event);
    wake();
  };
  socket.on("open", () => hear(["open"]));
  socket.on("message", (data, binary) => hear([binary ? "binary" : "text", data]));
  socket.on("pong", (payload) => hear(["pong", payload]));
  socket.on("close", (code, reason) => hear(["close", `${code} ${reason}`]));
  socket.on("error", (error) => hear(["error", error]));
  socket.next = async (kind) => {
    while (heard.length === 0) await new Promise((resolve) => (wake = resolve));
    const [seen, value] = heard.shift();
    if (kind !== undefined) expect("event", seen, kind);
    return kind === undefined ? [seen, value] : value;
  };
  return socket;
}

async function ask(url) {
  let socket = open(url);
  await socket.next("open");
  expect("compression", socket.extensions.split(";")[0], "permessage-deflate");
  for (const size of [0, 1, 125, 126, 127, 65_535, 65_536, MIB + 1, 3 * MIB]) {
    const text = "ä".repeat(size / 2);
    socket.send(text);
    expect(`${size} bytes of text`, (await socket.next("text")).toString(), text);
    for (const bytes of [Buffer.alloc(size), randomBytes(size)]) {
      socket.send(bytes);
      expect(`${size} bytes`, (await socket.next("binary")).equals(bytes), true);
    }
  }
  for (let i = 0; i < 100; i += 1) {
    socket.send(`fragment ${i} `, { fin: i === 99 });
    if (i === 50) socket.ping("between");
  }
  let whole = "";
  for (let i = 0; i < 100; i += 1) whole += `fragment ${i} `;
  // The Pong may overtake the echo, which is only said when the last fragment has come.
  expect("pong", (await socket.next("pong")).toString(), "between");
  expect("fragments", (await socket.next("text")).toString(), whole);
  for (let i = 0; i < 3_000; i += 1) socket.send(`small ${i}`);
  for (let i = 0; i < 3_000; i += 1) expect("many", (await socket.next("text")).toString(), `small ${i}`);
  socket.ping("p".repeat(125));
  expect("pong", (await socket.next("pong")).toString(), "p".repeat(125));
  socket.send("ping of the server");
  expect("ping", (await socket.next("text")).toString(), "pong of the server");
  socket.close(1000);
  await socket.next("close");
  for (const [code, reason] of [[1000, ""], [1001, "away"], [1011, "ä"], [3000, "x".repeat(123)], [4999, "own"]]) {
    socket = open(url);
    await socket.next("open");
    socket.send(`close ${code} ${reason}`);
    expect("close of the server", await socket.next("close"), `${code} ${reason}`);
    socket = open(url);
    await socket.next("open");
    socket.close(code, reason);
    await socket.next("close");
    socket = open(`${url}quiet`);
    await socket.next("open");
    socket.send("last");
    expect("close of the client", (await socket.next("text")).toString(), `${code} ${reason}`);
    socket.close(1000);
    await socket.next("close");
  }
}

async function stay(url) {
  const socket = open(url);
  await socket.next("open");
  for (let said = 0; ; said += 1) {
    const message = `message ${said} `.repeat(100);
    socket.send(message);
    const [kind, value] = await socket.next();
    if (kind === "close") return console.log(value);
    expect("echo", value.toString(), message);
    if (said === 0) console.log("open");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const [command, argument] = process.argv.slice(2);
if (command === "serve") serve(Number(argument));
else {
  // Longer than anything here takes.
  setTimeout(() => expect("the end", "never came", "120 s"), 120_000).unref();
  await (command === "ask" ? ask : stay)(argument);
  process.exit(0);
}
