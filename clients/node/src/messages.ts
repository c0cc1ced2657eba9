/** Writes the messages that the workers read: docs/enqueueing.md, "From anything". */

import { randomUUID } from "node:crypto";

import { checkArguments, checkExpiry, checkJobId, checkPriority, checkTenant, objectOf } from "./checks.js";

declare const resultType: unique symbol;

/** The id of a job: an ordinary string, whose type includes the type of the job's result. */
export type JobId<Result = any> = string & { readonly [resultType]?: Result };

/** The options of a job, beside its arguments. */
export interface JobOptions {
  /** The job's id; by default a new UUID. */
  jobId?: string;
  /** 0 to 9, the most urgent first; from 6 on the job is bulk. */
  priority?: number;
  /** The time after which no run of the job begins, in seconds. */
  expiresS?: number;
  /** The tenant for whom the job is: tenants are served in turn. */
  tenant?: string;
}

/** The message of one job. */
export interface Message {
  job: string;
  /** The Redis list that the message is pushed to. */
  list: string;
  /**
   * Whether the job has a dedupe key. The message then says when the job was enqueued, which decides which job it
   * joins.
   */
  hasDedupeKey: boolean;
  /** Write the text to push; the instant is in milliseconds since 1970. */
  text(enqueuedMs: number): string;
}

/** The queue of each group of tasks. */
export const QUEUES: Readonly<Record<string, string>> = {
  "tasks.ai": "ai",
  "tasks.email": "email",
  "tasks.admin": "admin",
};

const SEPARATOR = "\x06\x16";

/**
 * Write a job's message.
 *
 * @throws TypeError An argument cannot be written as JSON, or the id, priority, expiry or tenant is not allowed.
 */
export function messageOf(
  task: string,
  args: object,
  options: JobOptions,
  trackStarted: boolean,
): Message {
  const queue = Object.hasOwn(QUEUES, groupOf(task)) ? QUEUES[groupOf(task)]! : undefined;
  if (queue === undefined) throw new TypeError(`there is no task ${task} of Keywheel's`);
  checkArguments(args, `the argument for ${task}`);
  const { jobId, priority, expiresS, tenant } = given(objectOf(options, "options"));
  if (priority !== undefined) checkPriority(priority);
  if (jobId !== undefined) checkJobId(jobId);
  if (expiresS !== undefined) checkExpiry(expiresS);
  if (tenant !== undefined) checkTenant(tenant);
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

const groupOf = (task: unknown) => String(task).slice(0, String(task).lastIndexOf("."));

/** Return the options without those that are null, which count as not given. */
function given(options: JobOptions): JobOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== null));
}

function asJson(this: any, key: string, value: unknown): unknown {
  const given: unknown = this[key]; // before its own `toJSON`, which writes a Buffer as a list of numbers
  if (given instanceof Uint8Array) return Buffer.from(given).toString("base64");
  if (given instanceof Date && Number.isNaN(given.getTime())) {
    throw new TypeError(`${key} is an invalid Date`); // JSON would write null, which means "at once" for an email
  }
  if (given instanceof Map || given instanceof Set) {
    throw new TypeError(`${key} is a ${given.constructor.name}, which JSON would write as {}: give an object or array`);
  }
  if (typeof value === "bigint") throw new TypeError(`${key} is a bigint, which cannot be written as JSON`);
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new TypeError(`${key} is ${value}, which cannot be written as JSON`);
  }
  return value;
}
