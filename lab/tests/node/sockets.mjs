// Clients of the `ws` package, with per-message compression: N sessions that echo, come back when they
// are told to, and report what they saw when standard input ends.
import { createRequire } from "node:module";

// Packages come from NODE_PATH, which only require() looks at.
const { WebSocket } = createRequire(import.meta.url)("ws");
const [url, count] = [process.argv[2], Number(process.argv[3])];
const seen = { codes: {}, mismatched: 0, compressed: 0 };
let open = 0;
let over = false;

function client(number) {
  const socket = new WebSocket(url, { perMessageDeflate: { threshold: 0 } });
  let said = 0;
  let timer;
  const say = () => socket.send(`client ${number} ${said} `.repeat(50));
  socket.on("open", () => {
    open += 1;
    seen.compressed += socket.extensions.includes("permessage-deflate") ? 1 : 0;
    if (open === count) console.log("open");
    say();
  });
  socket.on("message", (data) => {
    if (data.toString() !== `client ${number} ${said} `.repeat(50)) seen.mismatched += 1;
    said += 1;
    timer = setTimeout(say, 100 + 200 * Math.random());
  });
  socket.on("error", () => {});
  socket.on("close", (code) => {
    clearTimeout(timer);
    if (over) return;
    seen.codes[code] = (seen.codes[code] ?? 0) + 1;
    setTimeout(() => client(number), 200 * Math.random());
  });
}

for (let number = 0; number < count; number += 1) client(number);
process.stdin.resume();
process.stdin.on("end", () => {
  over = true;
  console.log(JSON.stringify(seen));
  process.exit(0);
});
