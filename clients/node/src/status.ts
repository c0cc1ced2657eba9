/** Reads the status of a job from its record in the result store. */

import { UnreadableRecord } from "./errors.js";

/** The status of a job. The workers run a `deferred` job again later. */
export type Status<Result = unknown> =
  | {
      state: "waiting"; // in its queue, or no job has this id
      /** The place in its queue, 1 for the next job; only if the caller asked for the place. */
      place?: number;
      /** When the keys are expected to allow its first call; null if it is not known. */
      expectedStart?: Date | null;
    }
  | { state: "running" }
  | {
      state: "deferred";
      /** Whether the job waits for a key, or for another try after a failure. */
      waitsFor: "key" | "failure" | "";
      /** Why the job waits, as a code (`rpm`, `daily_quota`, …): docs/results.md lists the codes. */
      code: string;
      /** Why the job waits, in a sentence. */
      reason: string;
      nextTry: Date | null;
      /** When the wait is expected to end; null if it is not known. */
      expectedEnd: Date | null;
    }
  | Ended<Result>;

/** The status of a job that has ended. */
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
 * Read a job's record; null if the job has no record yet.
 *
 * @throws UnreadableRecord The record is not a JSON record of Celery.
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

/** Whether a job has ended, with or without a result. */
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
