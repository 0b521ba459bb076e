// Both ends of gRPC, of the `@grpc/grpc-js` package: `serve PORT` has methods of python/calls.py under the same
// names, `exchange ADDRESS` holds the conversation of python/calls_exchange.py. Messages are bytes as they come.
import { createRequire } from "node:module";

// Packages come from NODE_PATH, which only require() looks at.
const grpc = createRequire(import.meta.url)("@grpc/grpc-js");
const same = (bytes) => bytes;

const method = (name, requestStream, responseStream) => ({
  path: `/test.Calls/${name}`,
  requestStream,
  responseStream,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
});
const service = {
  Echo: method("Echo", false, false),
  Fail: method("Fail", false, false),
  Metadata: method("Metadata", false, false),
  Many: method("Many", false, true),
  Sum: method("Sum", true, false),
  Chat: method("Chat", true, true),
};

function serve(port) {
  const server = new grpc.Server();
  server.addService(service, {
    Echo: (call, done) => done(null, call.request),
    Fail: (call, done) => done({ code: Number(call.request), details: "as it was asked to" }),
    Metadata: (call, done) => done(null, Buffer.from(JSON.stringify(call.metadata.getMap()))),
    Many: (call) => {
      for (let i = 0; i < Number(call.request); i += 1) call.write(Buffer.from(`${i}`));
      call.end();
    },
    Sum: (call, done) => {
      let sum = 0;
      call.on("data", (message) => (sum += message.length));
      call.on("end", () => done(null, Buffer.from(`${sum}`)));
    },
    Chat: (call) => {
      call.on("data", (message) => call.write(message));
      call.on("end", () => call.end());
    },
  });
  server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
  });
}

function expect(what, seen, wanted) {
  if (seen === wanted) return;
  console.error(`${what}: expected ${String(wanted).slice(0, 200)}, saw ${String(seen).slice(0, 200)}`);
  process.exit(1);
}

async function exchange(address) {
  const Client = grpc.makeGenericClientConstructor(service, "test.Calls");
  const client = new Client(address, grpc.credentials.createInsecure());
  const unary = (name, message, metadata = new grpc.Metadata()) =>
    new Promise((resolve) => client[name](message, metadata, (error, answer) => resolve([error, answer])));
  for (const size of [0, 1, 16_384, 70_000, 3 << 20]) {
    const message = Buffer.alloc(size, "x");
    const [error, answer] = await unary("Echo", message);
    expect(`echo of ${size}`, error ?? answer.equals(message), true);
  }
  for (const code of [1, 2, 5, 14, 16]) {
    const [error] = await unary("Fail", Buffer.from(`${code}`));
    expect("status", `${error?.code} ${error?.details}`, `${code} as it was asked to`);
  }
  const own = new grpc.Metadata();
  own.set("x-own", "of the client");
  const [error, metadata] = await unary("Metadata", Buffer.alloc(0), own);
  expect("metadata", error ?? JSON.parse(metadata)["x-own"], "of the client");
  let heard = 0;
  for await (const message of client.Many(Buffer.from("1000"))) expect("many", `${message}`, `${heard++}`);
  expect("many", heard, 1000);
  const sum = await new Promise((resolve) => {
    const call = client.Sum((error, answer) => resolve(error ?? `${answer}`));
    for (let i = 0; i < 100; i += 1) call.write(Buffer.alloc(1_000));
    call.end();
  });
  expect("sum", sum, "100000");
  const chat = client.Chat();
  let said = 0;
  chat.write(Buffer.from("0"));
  for await (const message of chat) {
    expect("chat", `${message}`, `${said}`);
    said += 1;
    if (said < 100) chat.write(Buffer.from(`${said}`));
    else chat.end();
  }
  expect("chat", said, 100);
  client.close();
}

const [command, argument] = process.argv.slice(2);
await { serve, exchange }[command](argument);
