// A job's stream as server-sent events. A browser that reconnects names the last event that it has.

import { JobFailed } from "keywheel-client";

import { keywheel, ofOurs } from "@/lib/keywheel";

interface Context {
  params: Promise<{ id: string }>;
}

export async function GET(request: Request, { params }: Context): Promise<Response> {
  const { id } = await params;
  return ofOurs(id, async () => {
    const events = eventsOf(id, request);
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { done, value } = await events.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
    });
    const headers = { "Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no" };
    return new Response(body, { headers });
  });
}

async function* eventsOf(job: string, { headers, signal }: Request): AsyncGenerator<Uint8Array> {
  const encoder = new TextEncoder();
  const event = (type: string, data: object, id = "") =>
    encoder.encode(`${id ? `id: ${id}\n` : ""}event: ${type}\ndata: ${JSON.stringify(data)}\n\n`);
  try {
    const after = headers.get("Last-Event-ID") ?? "0";
    for await (const { type, id, ...data } of keywheel.stream(job, { after, signal })) yield event(type, data, id);
  } catch (error) {
    if (error instanceof JobFailed) yield event("failed", { error: error.error, reason: error.reason });
    // After any other error the browser has left, or it reconnects.
  }
}
