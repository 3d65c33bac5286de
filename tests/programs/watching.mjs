// Programs that wait for inotify: a Vite dev server with a client on its websocket, and the TypeScript compiler.
//
// usage: node watching.mjs PROJECT
//   PROJECT  an application of benches/coding with its packages installed, on the file system in question
// Files are changed by other processes, in each of the ways that editors and tools do. inotify must tell of every
// change, the client must get a message, and the server must serve the new module. Prints a line for each.
// Must not decide by time: a change that is not seen fails at a deadline.
//
// Vite's watcher drops some changes that come close upon another one, on ext4 as well. So a change it has not seen
// after a while is made again, a few times. inotify itself gets no second chance.

import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync, readdirSync, watch } from "node:fs";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import process from "node:process";

const DEADLINE_MS = 60_000;
const ATTEMPTS = 6;
const ATTEMPT_MS = 5_000;
const SETTLE_MS = 400;
const project = path.resolve(process.argv[2]);
const running = [];

function fail(text) {
  throw new Error(text);
}

/** Waits for `look()` to give something; `what` says what was waited for. */
async function until(what, look) {
  return (await within(DEADLINE_MS, look)) || fail(`${what}: nothing after ${DEADLINE_MS} ms`);
}

async function within(limitMs, look) {
  const end = Date.now() + limitMs;
  for (;;) {
    const found = await look();
    if (found || Date.now() > end) return found;
    await pause(20);
  }
}

function pause(ms) {
  return new Promise((done) => setTimeout(done, ms));
}

/** Starts a program of the project; what it says grows in `said`. */
function start(program, args) {
  const env = { ...process.env, NO_COLOR: "1", CI: "1" };
  // Looking again and again would see every change without inotify.
  for (const name of ["CHOKIDAR_USEPOLLING", "CHOKIDAR_INTERVAL", "TSC_WATCHFILE", "TSC_WATCHDIRECTORY"]) delete env[name];
  const child = spawn(process.execPath, [path.join("node_modules", program), ...args], { cwd: project, env });
  const state = { said: "", pid: child.pid };
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (state.said += text));
  child.on("exit", (code) => (state.said += `\n(ended with ${code})`));
  running.push(child);
  return state;
}

function inotifyWatches(pid) {
  let watches = 0;
  for (const fd of readdirSync(`/proc/${pid}/fdinfo`)) {
    try {
      watches += readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8").split("\n").filter((line) => line.startsWith("inotify ")).length;
    } catch {
      // It was closed meanwhile.
    }
  }
  return watches;
}

function freePort() {
  return new Promise((done, no) => {
    const server = net.createServer();
    server.on("error", no);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

function get(port, url) {
  return new Promise((done, no) => {
    const request = http.get({ host: "127.0.0.1", port, path: url, timeout: DEADLINE_MS }, (answer) => {
      let text = "";
      answer.on("data", (part) => (text += part));
      answer.on("end", () => done({ status: answer.statusCode, text }));
    });
    request.on("error", no);
    request.on("timeout", () => request.destroy(new Error(`${url} is not answered`)));
  });
}

/** What the server tells its clients: text frames, never masked; each is one message in JSON. */
async function listen(port) {
  const { text } = await get(port, "/@vite/client");
  const token = /wsToken = "([^"]+)"/.exec(text)?.[1] ?? fail("the client has no token");
  const messages = [];
  const upgrade = http.request({
    host: "127.0.0.1", port, path: `/?token=${token}`,
    headers: { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": randomBytes(16).toString("base64"), "Sec-WebSocket-Protocol": "vite-hmr" },
  });
  upgrade.end();
  const socket = await new Promise((done, no) => {
    upgrade.on("upgrade", (_, found, head) => {
      found.unshift(head);
      done(found);
    });
    upgrade.on("error", no);
    upgrade.on("response", (answer) => no(new Error(`the websocket is refused: ${answer.statusCode}`)));
  });
  let waiting = Buffer.alloc(0);
  socket.on("data", (part) => {
    waiting = Buffer.concat([waiting, part]);
    for (;;) {
      const frame = firstFrame(waiting);
      if (!frame) return;
      waiting = waiting.subarray(frame.end);
      if (frame.opcode === 1) messages.push(JSON.parse(frame.content.toString()));
    }
  });
  return { messages, end: () => socket.destroy() };
}

function firstFrame(bytes) {
  if (bytes.length < 2) return null;
  let [length, at] = [bytes[1] & 127, 2];
  if (length === 126) {
    if (bytes.length < 4) return null;
    [length, at] = [bytes.readUInt16BE(2), 4];
  } else if (length === 127) {
    if (bytes.length < 10) return null;
    [length, at] = [Number(bytes.readBigUInt64BE(2)), 10];
  }
  if (bytes.length < at + length) return null;
  return { opcode: bytes[0] & 15, content: bytes.subarray(at, at + length), end: at + length };
}

/** Changes the project from outside: not by the process that watches, nor by the one that asks. */
function shell(script, ...args) {
  execFileSync("sh", ["-euc", script, "sh", ...args], { cwd: project, stdio: ["ignore", "pipe", "inherit"] });
}

const WAYS = [
  ["written in place", 'sed "s/MARK-[0-9]*/$2/" "$1" >"$1.copy~"; cat "$1.copy~" >"$1"; rm "$1.copy~"'],
  ["replaced by rename", 'sed "s/MARK-[0-9]*/$2/" "$1" >"$1.tmp~"; mv "$1.tmp~" "$1"'],
  ["sed -i", 'sed -i "s/MARK-[0-9]*/$2/" "$1"'],
  ["removed and made again", 'sed "s/MARK-[0-9]*/$2/" "$1" >"$1.bak~"; rm "$1"; cat "$1.bak~" >"$1"; rm "$1.bak~"'],
  ["changed through mmap", 'python3 -c "import mmap,re,sys; f=open(sys.argv[1],\'r+b\'); m=mmap.mmap(f.fileno(),0); '
    + 'm[:]=re.sub(rb\'MARK-[0-9]*\',sys.argv[2].encode(),m[:]); m.flush(); f.close(); import os; os.utime(sys.argv[1])" "$1" "$2"'],
  ["git checkout", 'git checkout -q "$2" -- "$1"'],
];

async function devServer() {
  shell(`printf '%s\\n' 'export const mark = "MARK-0000";' >src/mark.ts
    sed -i '1i import { mark } from "./mark";\\nconsole.log(mark);' src/App.tsx
    git init -q; git add src; git -c user.name=x -c user.email=x@example.invalid commit -q -m first
    sed -i s/MARK-0000/MARK-0005/ src/mark.ts; git -c user.name=x -c user.email=x@example.invalid commit -qa -m second
    git tag MARK-0005; sed -i s/MARK-0005/MARK-9999/ src/mark.ts`);
  const { port, server } = await answeringServer();
  // Only modules that somebody loaded are watched for the client.
  for (const url of ["/src/main.tsx", "/src/App.tsx", "/src/mark.ts"]) {
    const { status, text } = await get(port, url);
    if (status !== 200) fail(`${url} answers ${status}: ${text}`);
  }
  const client = await listen(port);
  await until("vite greets", () => client.messages.some((message) => message.type === "connected"));
  const watches = await until("vite watches with inotify", () => inotifyWatches(server.pid));

  const events = [];
  const witness = watch(path.join(project, "src"), (_, name) => events.push(name));
  for (const [number, [way, script]] of WAYS.entries()) {
    const mark = `MARK-000${number}`;
    await change(port, client, events, way, () => shell(script, "src/mark.ts", mark), mark);
  }
  witness.close();
  await newAndRemoved(port);
  client.end();
  console.log(`vite: ${watches} inotify watches, ${client.messages.length} messages`);
}

/** A port that is free now may be another program's a moment later: then it is started again with another one. */
async function answeringServer() {
  for (let attempt = 1; ; attempt++) {
    const port = await freePort();
    const server = start("vite/bin/vite.js", ["--host", "127.0.0.1", "--port", String(port), "--strictPort"]);
    // The other program may answer, so what counts is that the server is still there.
    const ends = () => server.said.includes("(ended with");
    await until("vite answers", async () => ends() || get(port, "/").then(() => server.said.includes("Local:"), () => null));
    if (!ends()) return { port, server };
    if (attempt === ATTEMPTS || !server.said.includes("already in use")) fail(server.said);
  }
}

/** Makes one change until the server has noticed it. It serves what it has until its watcher tells it of a change. */
async function change(port, client, events, way, make, mark) {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    await pause(SETTLE_MS);
    if ((await get(port, "/src/mark.ts")).text.includes(mark)) fail(`${way}: ${mark} is there before it was written`);
    const [told, seen] = [client.messages.length, events.length];
    make();
    await until(`${way}: inotify`, () => events.slice(seen).includes("mark.ts"));
    const served = await within(ATTEMPT_MS, async () => (await get(port, "/src/mark.ts")).text.includes(mark));
    if (served) {
      await until(`${way}: a message`, () => client.messages.slice(told).some(isUpdate));
      console.log(`vite: ${way}: seen${attempt > 1 ? `, at attempt ${attempt}` : ""}`);
      return;
    }
    shell(`sed -i "s/MARK-[0-9]*/MARK-9999/" src/mark.ts`);
  }
  fail(`${way}: not seen by vite in ${ATTEMPTS} attempts`);
}

function isUpdate(message) {
  return message.type === "full-reload"
    || (message.type === "update" && message.updates.some((update) => update.path.startsWith("/src/")));
}

/** A module that is missing, then there, then away again. */
async function newAndRemoved(port) {
  const has = (url, text) => async () => (await get(port, url)).text.includes(text);
  const write = (name, text) => shell(`mkdir -p src/new; printf '%s\\n' "$2" >"$1"`, name, text);
  // Made again and again, for the same reason.
  const settled = async (what, make, look) => {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      await pause(SETTLE_MS);
      make();
      if (await within(ATTEMPT_MS, look)) return;
    }
    fail(`${what}: not seen by vite in ${ATTEMPTS} attempts`);
  };
  const importing = 'import { late } from "./new/late"; export const mark = late;';
  await settled("a missing import", () => write("src/mark.ts", importing), async () => (await get(port, "/src/mark.ts")).status === 500);
  for (const late of ["LATE-1", "LATE-2"]) {
    await settled(late, () => write("src/new/late.ts", `export const late = "${late}";`), has("/src/new/late.ts", late));
    await until("the import", async () => (await get(port, "/src/mark.ts")).status === 200);
  }
  const madeAndRemoved = () => {
    write("src/new/late.ts", 'export const late = "LATE-2";');
    shell("sleep 0.4; rm -r src/new");
  };
  await settled("the removal", madeAndRemoved, async () => !(await get(port, "/src/new/late.ts")).text.includes("LATE"));
  console.log("vite: a new folder, a new file in it, both removed: seen");
}

async function compiler() {
  shell(`git checkout -q MARK-0005 -- src; git clean -qfd src`);
  const tsc = start("typescript/bin/tsc", ["--noEmit", "--watch", "--preserveWatchOutput"]);
  const rounds = () => tsc.said.split(/Found (\d+) errors?\. Watching/).filter((_, at) => at % 2 === 1).map(Number);
  await until("tsc's first round", () => tsc.said.includes("ended") ? fail(tsc.said) : rounds().length > 0);
  if (rounds()[0] !== 0) fail(`tsc finds errors at once: ${tsc.said}`);
  await until("tsc watches with inotify", () => inotifyWatches(tsc.pid));
  shell(`printf 'export const mark: number = "no number";\\n' >src/mark.ts`);
  await until("tsc sees the error", () => rounds().at(-1) > 0);
  shell(`printf 'export const mark = 1;\\n' >src/mark.tmp; mv src/mark.tmp src/mark.ts`);
  await until("tsc sees the correction", () => rounds().at(-1) === 0);
  console.log(`tsc: ${rounds().length} rounds`);
}

let code = 0;
try {
  await devServer();
  await compiler();
} catch (error) {
  console.error(error);
  code = 1;
}
for (const child of running) child.kill("SIGKILL");
process.exit(code);
