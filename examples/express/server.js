// A web application that enqueues jobs with Keywheel's client, shows their state and streams answers to the browser.

import { fileURLToPath } from "node:url";

import express from "express";
import { JobFailed, Keywheel, Unavailable } from "keywheel-client";
import { createClient } from "redis";

const REMEMBERED = 10_000;

// A visitor is waiting, so a command that cannot be sent now fails at once instead of being queued.
const redis = createClient({ url: process.env.REDIS_URL, disableOfflineQueue: true, socket: { connectTimeout: 2_000 } });
redis.on("error", () => {}); // the client reconnects; its errors are not logged because they may quote the URL
redis.connect().catch(() => {});
const keywheel = new Keywheel(redis, { namespace: process.env.KEYWHEEL_NAMESPACE ?? "kw" });

// The ids of this application's jobs: Redis cannot distinguish an unknown job from a job that waits. A real
// application would keep them in a table, and record to whom each job belongs.
const ours = new Set();

function accepted(id) {
  ours.add(id);
  if (ours.size > REMEMBERED) ours.delete(ours.values().next().value);
  return { id, job: `/jobs/${id}`, events: `/jobs/${id}/events` };
}

const texts = (body, names) =>
  names.every((name) => typeof body?.[name] === "string" && body[name]) &&
  Object.fromEntries(names.map((name) => [name, body[name]]));

const app = express();
app.disable("x-powered-by");
app.use(express.json({ limit: "100kb" }));

const page = fileURLToPath(new URL("page.html", import.meta.url));
app.get("/", (request, response) => response.sendFile(page));

function job(path, names, enqueue) {
  app.post(path, async (request, response) => {
    const given = texts(request.body, names);
    if (!given) return response.status(422).json({ detail: `give ${names.join(", ")} as JSON, each a string` });
    response.status(202).json(accepted(await enqueue(given)));
  });
}

job("/completions", ["prompt"], ({ prompt }) => keywheel.complete({ prompt, stream: true }));
job("/emails", ["to", "subject", "text"], (email) => keywheel.sendEmail(email));

app.param("id", (request, response, next, id) => {
  if (ours.has(id)) next();
  else response.status(404).json({ detail: "there is no such job" });
});

app.get("/jobs/:id", async (request, response) => {
  response.json(await keywheel.status(request.params.id));
});

app.delete("/jobs/:id", async (request, response) => {
  response.json({ cancelled: await keywheel.cancel(request.params.id) });
});

// Server-sent events. A browser that reconnects names the last event that it has.
app.get("/jobs/:id/events", async (request, response) => {
  const gone = new AbortController(); // aborted when the browser leaves
  response.on("close", () => gone.abort());
  const events = keywheel.stream(request.params.id, { after: request.get("Last-Event-ID") ?? "0", signal: gone.signal });
  const send = (type, data, id) =>
    response.write(`${id ? `id: ${id}\n` : ""}event: ${type}\ndata: ${JSON.stringify(data)}\n\n`);
  response.set({ "Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no" });
  response.flushHeaders();
  try {
    for await (const { type, id, ...data } of events) send(type, data, id);
  } catch (error) {
    if (error instanceof JobFailed) send("failed", { error: error.error, reason: error.reason });
    // After any other error the browser reconnects.
  }
  response.end();
});

// Express 5 passes errors of async handlers to this handler.
app.use((error, request, response, next) => {
  if (response.headersSent) return next(error);
  if (error instanceof Unavailable) {
    response.set("Retry-After", "5");
    return response.status(503).json({ detail: "the queue cannot be reached, try again soon" });
  }
  const status = error.status ?? 500;
  response.status(status).json({ detail: status < 500 ? error.message : "internal error" });
});

const server = app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
