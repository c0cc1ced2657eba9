/** Messages as the workers read them: docs/enqueueing.md, "From anything". */

import { randomUUID } from "node:crypto";

declare const resultType: unique symbol;

/** The id of a job: a text to store and to compare like any other, whose type knows what the result looks like. */
export type JobId<Result = any> = string & { readonly [resultType]?: Result };

/** What a job may have beside its arguments. */
export interface JobOptions {
  /** The job's id; by default a new UUID. */
  jobId?: string;
  /** 0 to 9, the most urgent first; from 6 on the job is bulk. */
  priority?: number;
  /** How long the job may wait for its first run, in seconds. */
  expiresS?: number;
  /** For whom the job is: the jobs of all tenants are served in turn. */
  tenant?: string;
}

/** One job on its way to its queue. */
export interface Message {
  job: string;
  /** The Redis list that the message is pushed to. */
  list: string;
  /** Whether it is to say when the job was enqueued, which decides which job it joins. */
  hasDedupeKey: boolean;
  /** Write what is pushed; the instant is in milliseconds since 1970. */
  text(enqueuedMs: number): string;
}

/** The queue of each group of tasks. */
export const QUEUES: Readonly<Record<string, string>> = {
  "tasks.ai": "ai",
  "tasks.email": "email",
  "tasks.admin": "admin",
};

const SEPARATOR = "\x06\x16";
const JOB_ID = /^[!-~]{1,200}$/;
const TENANT = /^[!#-\[\]-~]{1,200}$/;

/**
 * Write a job's message.
 *
 * @throws TypeError An argument cannot be written as JSON, or the id, the priority or the tenant is none.
 */
export function messageOf(
  task: string,
  args: object,
  { jobId, priority, expiresS, tenant }: JobOptions,
  trackStarted: boolean,
): Message {
  if (priority !== undefined && !(Number.isInteger(priority) && priority >= 0 && priority <= 9)) {
    throw new TypeError("priority must be a whole number from 0 to 9");
  }
  if (jobId !== undefined && !JOB_ID.test(jobId)) {
    throw new TypeError("jobId must have 1 to 200 visible ASCII characters, without spaces");
  }
  if (tenant !== undefined && !TENANT.test(tenant)) {
    throw new TypeError("tenant must have 1 to 200 printable ASCII characters other than spaces, quotes and \\");
  }
  const queue = QUEUES[task.slice(0, task.lastIndexOf("."))]!;
  const job = jobId ?? randomUUID();
  const body = Buffer.from(JSON.stringify([[], args, {}], asJson)).toString("base64");
  const hasDedupeKey = ((args as { dedupe_key?: string | null }).dedupe_key ?? null) !== null;
  const text = (enqueuedMs: number) => JSON.stringify({
    body,
    "content-type": "application/json",
    "content-encoding": "utf-8",
    headers: {
      task,
      id: job,
      ...(expiresS === undefined ? {} : { expires: new Date(Date.now() + expiresS * 1000).toISOString() }),
      ...(tenant === undefined ? {} : { tenant }),
      ...(trackStarted ? { track_started: true } : {}),
      ...(hasDedupeKey ? { enqueued_ms: enqueuedMs } : {}),
    },
    properties: {
      body_encoding: "base64",
      delivery_tag: randomUUID(),
      delivery_info: { exchange: "", routing_key: queue },
      ...(priority === undefined ? {} : { priority }),
    },
  });
  const step = Math.floor((priority ?? 0) / 3) * 3;
  return { job, list: step ? `${queue}${SEPARATOR}${step}` : queue, hasDedupeKey, text };
}

function asJson(this: any, key: string, value: unknown): unknown {
  const given: unknown = this[key]; // before its own `toJSON`, which writes a Buffer as a list of numbers
  if (given instanceof Uint8Array) return Buffer.from(given).toString("base64");
  if (given instanceof Date && Number.isNaN(given.getTime())) {
    throw new TypeError(`${key} is an invalid Date`); // JSON would have null, which is "at once" for an email
  }
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new TypeError(`${key} is ${value}, which cannot be written as JSON`);
  }
  return value;
}
