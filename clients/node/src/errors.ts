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
    /** How the job is: a deferred one says why it waits, and until when. */
    readonly status: Status,
    timeoutMs: number,
  ) {
    super(`${job} has not ended within ${timeoutMs} ms: it is ${status.state}`);
  }
}

/**
 * Redis cannot be reached, or rejects the command.
 *
 * If this comes while a job is enqueued, it is not known whether the job arrived. Enqueue it again with the same
 * `jobId`: an email is sent once then, whatever happened.
 */
export class Unavailable extends KeywheelError {
  constructor(cause: unknown) {
    super(`Redis: ${cause instanceof Error ? cause.message || cause.name : cause}`, { cause });
  }
}

/**
 * What Redis holds of a job is not ours: another program, or another serializer, wrote it.
 *
 * The job may run all the same. Its own end replaces the record.
 */
export class UnreadableRecord extends KeywheelError {
  constructor(cause: unknown) {
    super(
      "the job's record in the result store is none of Celery's in JSON: another program, or a worker with another " +
        "result_serializer, wrote it",
      { cause },
    );
  }
}

/** The error of a job that has ended without a result. */
export function failureOf(job: string, status: Exclude<Ended, { state: "done" }>): JobFailed {
  const Kind = status.state === "cancelled" ? JobCancelled : JobFailed;
  return new Kind(job, status.error, status.reason);
}
