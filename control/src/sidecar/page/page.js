// The page of the sidecar. Everything that it shows is set as text, never as HTML. What it may do is decided by the sidecar:
// the cookie is good for looking, and what changes something needs the second secret, which is kept in this tab only.
"use strict";

const KEPT_EVENTS = 200;
const REFRESH_AFTER_MS = 300;
const LOOK_EVERY_MS = 15000;

const $ = (id) => document.getElementById(id);
let events = null;
let due = null;

async function ask(method, path, body) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const csrf = sessionStorage.getItem("csrf");
  if (csrf && method !== "GET") headers["x-csrf-token"] = csrf;
  const answer = await fetch(path, {
    method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store",
  });
  const told = await answer.json();
  if (!answer.ok && path !== "/health") throw Object.assign(new Error(told.message), { status: answer.status });
  return told;
}

function trouble(error) {
  $("trouble").textContent = error ? error.message : "";
  $("trouble").hidden = !error;
}

function row(table, cells, buttons) {
  const tr = $(table).tBodies[0].insertRow();
  for (const cell of cells) tr.insertCell().textContent = cell;
  const last = tr.insertCell();
  for (const [text, action] of buttons) {
    const button = document.createElement("button");
    button.textContent = text;
    button.addEventListener("click", () => act(action));
    last.append(button);
  }
}

function empty(table, text) {
  const cell = $(table).tBodies[0].insertRow().insertCell();
  cell.colSpan = $(table).tHead.rows[0].cells.length;
  cell.textContent = text;
  cell.className = "empty";
}

function clear(table) { $(table).tBodies[0].replaceChildren(); }

async function act(action) {
  try {
    const done = await action();
    if (done !== null) trouble(null);
  } catch (error) {
    failed(error);
  }
  refresh();
}

function failed(error) {
  if (error.status === 401) return enter();
  trouble(error);
}

const part = encodeURIComponent;
const time = (ms) => new Date(ms).toLocaleString();
const bytes = (count) => count < 1048576 ? `${Math.ceil(count / 1024)} KiB` : `${(count / 1048576).toFixed(1)} MiB`;

function behind(details) {
  const status = details.status;
  if (!status) return details.status_error || "";
  return status.behind.records === 0 ? "nothing" : `${status.behind.records} operations, ${bytes(status.behind.bytes)}`;
}

function mountButtons(name) {
  return [
    ["Snapshot", () => ask("POST", `/mounts/${part(name)}/snapshots`, {})],
    ["Branch", () => {
      const branch = prompt("What is the branch called?");
      return branch ? ask("POST", "/branches", { mount: name, name: branch }) : null;
    }],
    ["Preview", () => ask("POST", "/previews/start", { mount: name })],
    ["Sync", () => ask("POST", `/mounts/${part(name)}/sync`, {})],
    ["Unmount", () => confirm(`Unmount ${name}?`) ? ask("POST", "/mounts/unmount", { name }) : null],
  ];
}

function snapshotButtons(mount, name) {
  const path = `/mounts/${part(mount)}/snapshots/${part(name)}`;
  return [
    ["Differences", async () => {
      const { stat } = await ask("GET", `${path}/diff?limit=1`);
      alert(`${stat.paths} paths differ from now: ${stat.created} created, ${stat.changed} changed, ` +
            `${stat.renamed} renamed, ${stat.deleted} deleted`);
    }],
    ["Restore", () => confirm(`Make all of ${mount} what it was at ${name}? What is there now becomes a snapshot.`)
      ? ask("POST", `${path}/restore`, {}) : null],
    ["Remove", () => confirm(`Remove the snapshot ${name}?`) ? ask("DELETE", path) : null],
  ];
}

function branchButtons(branch) {
  const path = `/branches/${part(branch.id)}`;
  return [
    ["Sync", () => ask("POST", `${path}/sync`, {})],
    ["Remove", () => confirm(`Remove ${branch.id} with everything in it?`) ? ask("DELETE", path) : null],
  ];
}

function previewButtons(preview) {
  const buttons = [["Log", async () => {
    const { lines } = await ask("GET", `/previews/${part(preview.id)}/logs?lines=30`);
    alert(lines.map((line) => line.text).join("\n") || "It has written nothing.");
  }]];
  if (preview.state === "ready") buttons.push(["Open", () => { open(preview.url, "_blank", "noopener"); }]);
  if (!["stopped", "failed"].includes(preview.state)) {
    buttons.push(["Stop", () => ask("POST", "/previews/stop", { id: preview.id })]);
  }
  return buttons;
}

async function show() {
  const health = await ask("GET", "/health");
  const reasons = Object.values(health.parts).map((one) => one.reason).filter(Boolean);
  $("health").textContent = [`${health.status}, version ${health.version}`, ...reasons].join("; ");
  const { mounts } = await ask("GET", "/mounts");
  const details = await Promise.all(mounts.map((mount) => ask("GET", `/mounts/${part(mount.name)}`).catch(() => mount)));
  const snapshots = await Promise.all(mounts.map((mount) => mount.state === "mounted"
    ? ask("GET", `/mounts/${part(mount.name)}/snapshots`).catch(() => ({ snapshots: [] })) : { snapshots: [] }));
  const { branches } = await ask("GET", "/branches");
  const { previews } = await ask("GET", "/previews");
  for (const table of ["mounts", "previews", "snapshots", "branches"]) clear(table);
  mounts.forEach((mount, at) => {
    row("mounts", [mount.name, mount.error ? `${mount.state}: ${mount.error}` : mount.state, mount.path, mount.source,
      behind(details[at])], mountButtons(mount.name));
    for (const one of snapshots[at].snapshots.slice().reverse()) {
      row("snapshots", [mount.name, one.name, time(one.made_ms), one.note], snapshotButtons(mount.name, one.name));
    }
  });
  for (const one of previews) {
    const state = [one.state, one.ended ? one.ended.reason : "", one.trouble || ""].filter(Boolean).join("; ");
    row("previews", [one.path ? `${one.mount}:${one.path}` : one.mount, state, one.command, one.url], previewButtons(one));
  }
  for (const one of branches) {
    const of = one.project === null ? "not known" : one.project || "all of it";
    const state = [one.state, ...one.in_use, one.dropped ? "not on the local disk" : ""].filter(Boolean).join("; ");
    row("branches", [one.id, state, of, time(one.used_ms), one.folder], branchButtons(one));
  }
  if (!mounts.length) empty("mounts", "Nothing is mounted.");
  if (!previews.length) empty("previews", "No app was started.");
  if (!$("snapshots").tBodies[0].rows.length) empty("snapshots", "There are no snapshots.");
  if (!branches.length) empty("branches", "There are no branches.");
}

function refresh() {
  clearTimeout(due);
  due = setTimeout(async () => {
    try { await show(); } catch (error) { failed(error); }
    due = setTimeout(refresh, LOOK_EVERY_MS);
  }, REFRESH_AFTER_MS);
}

// Kinds are the names of the events, so that all of them would have to be listened to by name; the stream is read instead.
async function follow() {
  const stop = new AbortController();
  events = stop;
  let last = "";
  while (!stop.signal.aborted) {
    try {
      const headers = last ? { "last-event-id": last } : {};
      const answer = await fetch("/events?after=0", { headers, signal: stop.signal, cache: "no-store" });
      if (answer.status === 401) return enter();
      if (!answer.ok) throw new Error("no events");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
        const lines = text.split("\n");
        text = lines.pop();
        for (const line of lines) {
          if (line.startsWith("id:")) last = line.slice(3).trim();
          if (line.startsWith("data:")) told(JSON.parse(line.slice(5)));
        }
      }
    } catch (error) {
      if (stop.signal.aborted) return;
    }
    await new Promise((again) => setTimeout(again, 2000));
  }
}

function told(event) {
  const line = document.createElement("li");
  line.value = event.id;
  const at = document.createElement("time");
  at.dateTime = new Date(event.at_ms).toISOString();
  at.textContent = time(event.at_ms);
  line.append(at, `${event.kind} ${event.mount ? event.mount + ": " : ""}${event.message}`);
  $("events").prepend(line);
  while ($("events").children.length > KEPT_EVENTS) $("events").lastChild.remove();
  refresh();
}

function enter() {
  if (events) events.abort();
  clearTimeout(due);
  sessionStorage.removeItem("csrf");
  $("inside").hidden = $("leave").hidden = true;
  $("enter").hidden = false;
  $("token").focus();
}

function inside(session) {
  $("enter").hidden = true;
  $("inside").hidden = false;
  $("leave").hidden = session.is_local;
  $("events").replaceChildren();
  trouble(session.is_local || sessionStorage.getItem("csrf") ? null
    : new Error("This tab can look and not change anything: leave, and enter with the token again."));
  refresh();
  follow();
}

$("enter").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  try {
    const answer = await fetch("/session", { method: "POST", headers: { authorization: `Bearer ${token}` } });
    const session = await answer.json();
    if (!answer.ok) throw new Error(session.message);
    sessionStorage.setItem("csrf", session.csrf || "");
    inside(session);
  } catch (error) {
    trouble(error);
  }
});

$("leave").addEventListener("click", async () => {
  await ask("DELETE", "/session").catch(() => null);
  enter();
});

ask("GET", "/session").then(inside, (error) => error.status === 401 ? enter() : trouble(error));
