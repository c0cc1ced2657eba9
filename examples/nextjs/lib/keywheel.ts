// Keywheel's client, over one connection in each process, also if the dev server loads this file again.

import { Keywheel, Unavailable } from "keywheel-client";
import { createClient } from "redis";

const KEPT_S = 86_400; // as long as Keywheel keeps results

function connect() {
  // A visitor is waiting, so a command that cannot be sent now fails at once instead of being queued.
  const redis = createClient({
    url: process.env.REDIS_URL,
    disableOfflineQueue: true,
    socket: { connectTimeout: 2_000 },
  });
  redis.on("error", () => {}); // the client reconnects; its errors are not logged because they may quote the URL
  const connected = redis.connect().catch(() => {});
  return { redis, begun: Promise.race([connected, new Promise((resolve) => setTimeout(resolve, 2_000))]) };
}

const kept = globalThis as typeof globalThis & { keywheelRedis?: ReturnType<typeof connect> };
const { redis, begun } = (kept.keywheelRedis ??= connect());

export const keywheel = new Keywheel(redis, { namespace: process.env.KEYWHEEL_NAMESPACE ?? "kw" });

/** Enqueue a job, and record its id. A real application also records to whom the job belongs. */
export async function accept(enqueue: () => Promise<string>): Promise<Response> {
  return answering(async () => {
    const id = await enqueue();
    await redis.set(`webapp:job:${id}`, "1", { EX: KEPT_S });
    return Response.json({ id, job: `/jobs/${id}`, events: `/jobs/${id}/events` }, { status: 202 });
  });
}

/** Answer for one of our jobs, else with 404: Redis cannot distinguish an unknown job from a job that waits. */
export async function ofOurs(id: string, answer: () => Promise<Response>): Promise<Response> {
  return answering(async () => {
    if (await redis.exists(`webapp:job:${id}`)) return answer();
    return Response.json({ detail: "there is no such job" }, { status: 404 });
  });
}

/** Return the strings with these names in a request's body, or null if one is missing. */
export async function textsOf<Name extends string>(
  request: Request,
  names: readonly Name[],
): Promise<Record<Name, string> | null> {
  const body = await request.json().catch(() => null);
  const whole = names.every((name) => typeof body?.[name] === "string" && body[name]);
  return whole ? (Object.fromEntries(names.map((name) => [name, body[name]])) as Record<Name, string>) : null;
}

export function unreadable(names: readonly string[]): Response {
  return Response.json({ detail: `give ${names.join(", ")} as JSON, each a string` }, { status: 422 });
}

async function answering(answer: () => Promise<Response>): Promise<Response> {
  try {
    await begun;
    return await answer();
  } catch (error) {
    if (!(error instanceof Unavailable) && redis.isReady) throw error;
    const detail = "the queue cannot be reached, try again soon";
    return Response.json({ detail }, { status: 503, headers: { "Retry-After": "5" } });
  }
}
