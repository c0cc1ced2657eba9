// The way to Keywheel: one connection a process, also where the dev server loads this file again.

import { Keywheel, Unavailable } from "keywheel-client";
import { createClient } from "redis";

const KEPT_S = 86_400; // as long as Keywheel keeps results

function connect() {
  // Without its queue of commands: a visitor is waiting, so what cannot be sent now fails at once.
  const redis = createClient({
    url: process.env.REDIS_URL,
    disableOfflineQueue: true,
    socket: { connectTimeout: 2_000 },
  });
  redis.on("error", () => {}); // it connects again by itself; its errors may quote the URL
  const connected = redis.connect().catch(() => {});
  return { redis, begun: Promise.race([connected, new Promise((resolve) => setTimeout(resolve, 2_000))]) };
}

const kept = globalThis as typeof globalThis & { keywheelRedis?: ReturnType<typeof connect> };
const { redis, begun } = (kept.keywheelRedis ??= connect());

export const keywheel = new Keywheel(redis, { namespace: process.env.KEYWHEEL_NAMESPACE ?? "kw" });

/** Note that a job is ours. A real application also notes whose it is. */
export async function accept(enqueue: () => Promise<string>): Promise<Response> {
  return answering(async () => {
    const id = await enqueue();
    await redis.set(`webapp:job:${id}`, "1", { EX: KEPT_S });
    return Response.json({ id, job: `/jobs/${id}`, events: `/jobs/${id}/events` }, { status: 202 });
  });
}

/** Answer for one of our jobs. Redis cannot tell an unknown job from one that waits, so others are not found. */
export async function ofOurs(id: string, answer: () => Promise<Response>): Promise<Response> {
  return answering(async () => {
    if (await redis.exists(`webapp:job:${id}`)) return answer();
    return Response.json({ detail: "there is no such job" }, { status: 404 });
  });
}

/** The texts of these names in a request's body, or null where one is missing. */
export async function textsOf<Name extends string>(
  request: Request,
  names: readonly Name[],
): Promise<Record<Name, string> | null> {
  const body = await request.json().catch(() => null);
  const whole = names.every((name) => typeof body?.[name] === "string" && body[name]);
  return whole ? (Object.fromEntries(names.map((name) => [name, body[name]])) as Record<Name, string>) : null;
}

export function unreadable(names: readonly string[]): Response {
  return Response.json({ detail: `give ${names.join(", ")} as JSON, each a text` }, { status: 422 });
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
