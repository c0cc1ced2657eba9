/** Reads the records of a job's stream: docs/results.md, "Streaming". */

import { failureOf } from "./errors.js";
import type { CompletionResult, ToolCallDelta, Usage } from "./results.js";
import { CANCELLED, type Ended, instant } from "./status.js";

interface Place {
  /** Pass it as `after` to continue after this event. Empty if the event was made from the job's result. */
  id: string;
  /** How many calls were made for the job so far. */
  attempt: number;
}

/** One piece of an answer, or a change of its state. `restart`: drop the pieces so far, the answer begins again. */
export type StreamEvent = Place &
  (
    | { type: "start" | "restart" }
    | { type: "delta"; text: string; reasoning: string; tool_calls: ToolCallDelta[] }
    | { type: "wait"; reason: string; code: string; nextTry: Date | null; expectedEnd: Date | null }
    | {
        type: "end";
        finish_reason: string | null;
        model: string | null;
        usage: Usage;
      }
  );

/** One record as XRANGE returns it. */
export type Row = [id: string, fields: string[]];

/**
 * Read one record; null if it cannot be read, because another program wrote it.
 *
 * @throws JobFailed The record says that the job failed.
 */
export function eventOf(job: string, [id, flat]: Row): StreamEvent | null {
  const fields: Record<string, string> = {};
  for (let i = 0; i + 1 < flat.length; i += 2) fields[flat[i]!] = flat[i + 1]!;
  const { status, error = "", reason = "" } = fields;
  if (status === "failed") {
    throw failureOf(job, { state: error === CANCELLED ? "cancelled" : "failed", error, reason });
  }
  try {
    return read(id, fields);
  } catch {
    return null;
  }
}

function read(id: string, fields: Record<string, string>): StreamEvent | null {
  const { reason = "", code = "", text = "", reasoning = "" } = fields;
  const origin = { id, attempt: Number(fields.attempt ?? 0) };
  switch (fields.type) {
    case "delta":
      return { ...origin, type: "delta", text, reasoning, tool_calls: JSON.parse(fields.tool_calls ?? "[]") };
    case "wait":
      return {
        ...origin,
        type: "wait",
        reason,
        code,
        nextTry: instant(fields.next_try),
        expectedEnd: instant(fields.expected_end),
      };
    case "end":
      return {
        ...origin,
        type: "end",
        finish_reason: fields.finish_reason ?? null,
        model: fields.model ?? null,
        usage: JSON.parse(fields.usage ?? "{}"),
      };
    case "start":
    case "restart":
      return { ...origin, type: fields.type };
    default:
      return null;
  }
}

/**
 * Make the events of a job that has ended and has no stream, or no longer has one.
 *
 * @throws JobFailed The job has failed.
 */
export function eventsOfResult(job: string, status: Ended): StreamEvent[] {
  if (status.state !== "done") throw failureOf(job, status);
  const result = (status.result ?? {}) as Partial<CompletionResult>; // the job may be of any task
  const { text = "", reasoning = "", tool_calls = [], attempts = 0 } = result;
  const { finish_reason = null, model = null, usage = {} } = result;
  const origin = { id: "", attempt: attempts };
  return [
    { ...origin, type: "restart" },
    { ...origin, type: "delta", text, reasoning, tool_calls },
    { ...origin, type: "end", finish_reason, model, usage },
  ];
}
