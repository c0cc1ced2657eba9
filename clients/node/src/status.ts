/** How a job is, read from its record in the result store. */

import { UnreadableRecord } from "./errors.js";

/** How a job is. `deferred`: it comes back by itself. */
export type Status<Result = unknown> =
  | {
      state: "waiting"; // in its queue, or no job has this id
      /** The place in its queue, 1 for the next one; only where it was asked for. */
      place?: number;
      /** When the keys are expected to allow its first call; null: not known. */
      expectedStart?: Date | null;
    }
  | { state: "running" }
  | {
      state: "deferred";
      /** What it waits for: a key, or another try after a failure. */
      waitsFor: "key" | "failure" | "";
      /** Why, as a code (`rpm`, `daily_quota`, …): docs/results.md lists them. */
      code: string;
      /** Why, in a sentence. */
      reason: string;
      nextTry: Date | null;
      /** When the wait is expected to end; null: not known. */
      expectedEnd: Date | null;
    }
  | Ended<Result>;

/** How a job has ended. */
export type Ended<Result = unknown> =
  | { state: "done"; result: Result }
  | { state: "failed" | "cancelled"; error: string; reason: string };

interface Stored {
  status: string;
  result?: { exc_type?: string; exc_message?: unknown } | null;
  waits?: { kind?: "key" | "failure"; code?: string; next_try?: string; expected_end?: string | null };
}

export const CANCELLED = "TaskRevokedError";

/**
 * Read a job's record; null: it has none yet.
 *
 * @throws UnreadableRecord It is none of Celery's in JSON.
 */
export function statusOf(text: string | null): Status<any> {
  const { status, result, waits } = storedIn(text);
  const [error, reason] = [result?.exc_type ?? "", sentence(result?.exc_message)];
  switch (status) {
    case "SUCCESS":
      return { state: "done", result };
    case "FAILURE":
      return { state: "failed", error, reason };
    case "REVOKED":
      return { state: error === CANCELLED ? "cancelled" : "failed", error, reason };
    case "RETRY":
      return {
        state: "deferred",
        waitsFor: waits?.kind ?? "",
        code: waits?.code ?? "",
        reason,
        nextTry: instant(waits?.next_try),
        expectedEnd: instant(waits?.expected_end),
      };
    case "STARTED":
      return { state: "running" };
    default:
      return { state: "waiting" };
  }
}

function storedIn(text: string | null): Stored {
  if (!text) return { status: "PENDING" };
  let stored: Stored | null = null;
  try {
    stored = JSON.parse(text);
  } catch (error) {
    throw new UnreadableRecord(error);
  }
  if (typeof stored?.status !== "string") throw new UnreadableRecord("it has no status");
  return stored;
}

/** Whether a job has ended, in whichever way. */
export function hasEnded<Result>(status: Status<Result>): status is Ended<Result> {
  return status.state === "done" || status.state === "failed" || status.state === "cancelled";
}

/** Read an instant in ISO 8601. */
export function instant(text: string | null | undefined): Date | null {
  const read = text ? new Date(text) : null;
  return read && !Number.isNaN(read.getTime()) ? read : null;
}

function sentence(message: unknown): string {
  return Array.isArray(message) ? message.join(" ") : String(message ?? "");
}
