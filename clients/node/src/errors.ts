/** Every error of this package. All of them are a `KeywheelError`. */

import type { Ended, Status } from "./status.js";

/** Base of every error of this package. */
export class KeywheelError extends Error {
  override name = this.constructor.name;
}

/** A job has ended without a result. */
export class JobFailed extends KeywheelError {
  constructor(
    /** The job's id. */
    readonly job: string,
    /** The error's name, such as `InvalidArguments`; docs/results.md lists them. */
    readonly error: string,
    /** What went wrong, in a sentence. */
    readonly reason: string,
  ) {
    super(`${error}: ${reason}`);
  }
}

/** A job has ended because it was cancelled. */
export class JobCancelled extends JobFailed {}

/** A job has not ended in time. It goes on: ask for its result again, or cancel it. */
export class ResultTimeout extends KeywheelError {
  constructor(
    /** The job's id. */
    readonly job: string,
    /** The status of the job; the status of a deferred job says why it waits, and until when. */
    readonly status: Status,
    timeoutMs: number,
  ) {
    super(`${job} has not ended within ${timeoutMs} ms: it is ${status.state}`);
  }
}

/**
 * Redis cannot be reached, or rejects the command.
 *
 * If this error comes while a job is enqueued, it is not known whether the job arrived. Enqueue it again with the same
 * `jobId`: an email is then sent once in either case.
 */
export class Unavailable extends KeywheelError {
  constructor(cause: unknown) {
    super(`Redis: ${cause instanceof Error ? cause.message || cause.name : cause}`, { cause });
  }
}

/**
 * The record of a job in Redis cannot be read: another program, or another serializer, wrote it.
 *
 * The job may still run. It replaces the record when it ends.
 */
export class UnreadableRecord extends KeywheelError {
  constructor(cause: unknown) {
    super(
      "the job's record in the result store is not a JSON record of Celery: another program, or a worker with " +
        "another result_serializer, wrote it",
      { cause },
    );
  }
}

/** Make the error of a job that has ended without a result. */
export function failureOf(job: string, status: Exclude<Ended, { state: "done" }>): JobFailed {
  const Kind = status.state === "cancelled" ? JobCancelled : JobFailed;
  return new Kind(job, status.error, status.reason);
}
