// A web application that enqueues jobs for Keywheel through Flower's HTTP API, and gives their results.
// It needs nothing of Keywheel and no Redis client: a login at Flower is all.

import { fileURLToPath } from "node:url";

import express from "express";

const FLOWER_URL = process.env.FLOWER_URL ?? "http://127.0.0.1:5555";
const FLOWER_AUTH = process.env.FLOWER_BASIC_AUTH ?? ""; // user:password, the first pair of Flower's own setting
const PATIENCE_MS = 5_000;
const REMEMBERED = 10_000;

// Flower cannot tell an unknown job from one that waits, so this application notes which ones are its own.
// In the memory here; a real application has a table, and notes whose they are.
const ours = new Set();

class FlowerError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function flower(path, body) {
  let answer;
  let told;
  try {
    answer = await fetch(FLOWER_URL + path, {
      method: body ? "POST" : "GET",
      headers: {
        Authorization: `Basic ${Buffer.from(FLOWER_AUTH.split(",")[0]).toString("base64")}`,
        "Content-Type": "application/json",
      },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    told = answer.ok && (await answer.json());
  } catch {
    throw new FlowerError(503, "the queue cannot be reached, try again soon");
  }
  if (answer.status === 401 || answer.status === 403) {
    // Wrong FLOWER_BASIC_AUTH, or Flower is read-only: nothing that a visitor could change.
    throw new FlowerError(500, "the queue does not accept this application");
  }
  if (!answer.ok) throw new FlowerError(503, "the queue cannot be reached, try again soon"); // Flower without its Redis
  return told;
}

async function enqueue(task, queue, kwargs) {
  // Flower passes what stands beside `kwargs` on to Celery: `queue` says where the job goes.
  const sent = await flower(`/api/task/send-task/${task}`, { kwargs, queue });
  const id = sent["task-id"];
  ours.add(id);
  if (ours.size > REMEMBERED) ours.delete(ours.values().next().value);
  return { id, job: `/jobs/${id}` };
}

function stateOf({ state, result }) {
  if (state === "SUCCESS") return { state: "done", result };
  // Flower gives an error as Python writes it: RequestRejected('rejected: …')
  if (state === "FAILURE" || state === "REVOKED") return { state: "failed", reason: String(result) };
  return { state: state === "RETRY" ? "retrying" : "waiting" }; // retrying: no key is free, or the provider failed
}

const texts = (body, names) =>
  names.every((name) => typeof body?.[name] === "string" && body[name]) &&
  Object.fromEntries(names.map((name) => [name, body[name]]));

const app = express();
app.disable("x-powered-by");
app.use(express.json({ limit: "100kb" }));

const page = fileURLToPath(new URL("page.html", import.meta.url));
app.get("/", (request, response) => response.sendFile(page));

function job(path, task, queue, names) {
  app.post(path, async (request, response) => {
    const kwargs = texts(request.body, names);
    if (!kwargs) return response.status(422).json({ detail: `give ${names.join(", ")} as JSON, each a text` });
    response.status(202).json(await enqueue(task, queue, kwargs));
  });
}

job("/completions", "tasks.ai.complete", "ai", ["prompt"]);
job("/emails", "tasks.email.send", "email", ["to", "subject", "text"]);

app.get("/jobs/:id", async (request, response) => {
  if (!ours.has(request.params.id)) return response.status(404).json({ detail: "there is no such job" });
  response.json(stateOf(await flower(`/api/task/result/${request.params.id}`)));
});

// Express 5 brings what an async handler throws here.
app.use((error, request, response, next) => {
  if (response.headersSent) return next(error);
  const status = error.status ?? 500;
  if (status === 503) response.set("Retry-After", "5");
  response.status(status).json({ detail: error instanceof FlowerError || status < 500 ? error.message : "internal error" });
});

const server = app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
