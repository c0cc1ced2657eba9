/** Checks the values that a caller gives, so that a wrong value fails at once, with a sentence. */

/** The longest time after which a job expires, in seconds. */
const LONGEST_S = 1_000_000_000;
const JOB_ID = /^[!-~]{1,200}$/;
const TENANT = /^[!#-\[\]-~]{1,200}$/;
const AFTER = /^[0-9]{1,20}(-[0-9]{1,20})?$/;

/** Describe the type of a value for an error. */
export function kindOf(value: unknown): string {
  if (value === null || value === undefined || typeof value === "number") return String(value);
  if (value === "") return "an empty string";
  return Array.isArray(value) ? "an array" : `a ${typeof value}`;
}

/** Return an object of arguments or options; an empty object if it is not given. */
export function objectOf<Kind extends object>(value: Kind | null | undefined, name: string): Kind {
  if (value === null || value === undefined) return {} as Kind;
  if (typeof value !== "object" || Array.isArray(value)) {
    throw new TypeError(`${name} must be an object, but is ${kindOf(value)}`);
  }
  return value;
}

/** Check the arguments of a job. */
export function checkArguments(args: unknown, name: string): void {
  if (typeof args !== "object" || args === null || Array.isArray(args)) {
    throw new TypeError(`${name} must be an object, but is ${kindOf(args)}`);
  }
}

/** Check the id of a job that was enqueued. */
export function checkJob(job: unknown): void {
  if (typeof job !== "string" || !job) {
    throw new TypeError(`job must be a job's id, as \`complete\` returns it, but is ${kindOf(job)}`);
  }
}

/** Check the id for a new job. */
export function checkJobId(jobId: unknown): void {
  if (typeof jobId !== "string" || !JOB_ID.test(jobId)) {
    throw new TypeError("jobId must have 1 to 200 visible ASCII characters, without spaces");
  }
}

/** Check the priority of a job. */
export function checkPriority(priority: unknown): void {
  if (!(Number.isInteger(priority) && (priority as number) >= 0 && (priority as number) <= 9)) {
    throw new TypeError("priority must be a whole number from 0 to 9");
  }
}

/** Check the time after which no run of a job begins. */
export function checkExpiry(expiresS: unknown): void {
  if (typeof expiresS !== "number" || !(expiresS > 0 && expiresS <= LONGEST_S)) {
    throw new TypeError("expiresS must be a number of seconds above 0, at most 1,000,000,000");
  }
}

/** Check the tenant of a job. */
export function checkTenant(tenant: unknown): void {
  if (typeof tenant !== "string" || !TENANT.test(tenant)) {
    throw new TypeError("tenant must have 1 to 200 printable ASCII characters other than spaces, quotes and \\");
  }
}

/** Check how long to wait, and the signal that ends the wait early. */
export function checkWait({ timeoutMs, signal }: { timeoutMs?: unknown; signal?: unknown }): void {
  if (timeoutMs !== undefined && (typeof timeoutMs !== "number" || Number.isNaN(timeoutMs))) {
    throw new TypeError("timeoutMs must be a number of milliseconds, or Infinity");
  }
  if (signal !== undefined && typeof (signal as AbortSignal | null)?.throwIfAborted !== "function") {
    throw new TypeError(`signal must be an AbortSignal, but is ${kindOf(signal)}`);
  }
}

/** Return the id of a stream's event; `0`, the beginning, if the event was made from the job's result. */
export function afterOf(after: unknown): string {
  if (after === "") return "0";
  if (typeof after !== "string" || !AFTER.test(after)) {
    throw new TypeError("after must be the id of an event of the stream, or 0");
  }
  return after;
}
