/** The client. */

import type { CompletionArguments, EmailArguments, QuoteArguments, ResetArguments } from "./arguments.js";
import { afterOf, checkJob, checkWait, kindOf, objectOf } from "./checks.js";
import { type RedisClient, type Send, sender } from "./connection.js";
import { Endings, pause, recordOf } from "./endings.js";
import { failureOf, ResultTimeout, UnreadableRecord } from "./errors.js";
import { eventOf, eventsOfResult, type Row, type StreamEvent } from "./events.js";
import type { JobId, JobOptions } from "./messages.js";
import { Pipeline } from "./pipeline.js";
import type { CompletionResult, EmailResult, QuoteResult, ResetResult, ServiceStatus } from "./results.js";
import { type Ended, hasEnded, instant, type Status, statusOf } from "./status.js";

const TIMEOUT_MS = 60_000;
const CANCEL_KEPT_S = 30 * 86_400; // as long as the longest deadline that a job may have
const [FIRST_PAUSE_MS, LONGEST_PAUSE_MS] = [30, 250];
// After this time without a record of a stream, the client looks at the result.
const [FIRST_SILENCE_MS, LONGEST_SILENCE_MS] = [200, 1_500];

/** The options of a client. */
export interface KeywheelOptions {
  /** The Redis of the results, if the workers have another one (`CELERY_RESULT_BACKEND`). */
  results?: RedisClient;
  /** The Redis of cancels and streams, if the workers have another one (`KEYWHEEL_POOL_URL`). */
  pool?: RedisClient;
  /** `KEYWHEEL_NAMESPACE` of the workers. */
  namespace?: string;
  /** Whether the workers store that a job runs, for the state `running`: one write for each job. */
  trackStarted?: boolean;
}

/** The options of a wait. */
export interface WaitOptions {
  /** The time in milliseconds; `Infinity`: until the job ends. By default one minute. */
  timeoutMs?: number;
  /** Ends the wait early, for example when a visitor has left the page; the job goes on. */
  signal?: AbortSignal | undefined;
}

/** The options of `stream`; the time is the longest wait for the next event. */
export interface StreamOptions extends WaitOptions {
  /** The id of the last event that was read; by default the stream is read from its beginning. */
  after?: string;
}

/** Enqueues, follows and cancels jobs, over a connection that the caller opens and closes. */
export class Keywheel {
  readonly #broker: Send;
  readonly #results: Send;
  readonly #pool: Send;
  readonly #namespace: string;
  readonly #trackStarted: boolean;
  readonly #endings: Endings;

  constructor(redis: RedisClient, options: KeywheelOptions = {}) {
    const { results = redis, pool = redis, namespace = "kw", trackStarted = true } = objectOf(options, "options");
    if (typeof namespace !== "string" || !namespace) {
      throw new TypeError(`namespace must be a string, but is ${kindOf(namespace)}`);
    }
    this.#broker = sender(redis);
    this.#results = sender(results, "results");
    this.#pool = sender(pool, "pool");
    this.#namespace = namespace;
    this.#trackStarted = trackStarted;
    this.#endings = new Endings(this.#results);
  }

  /**
   * Enqueue a completion.
   *
   * @param what One user message, or the arguments as in Groq's API.
   * @returns The job's id.
   * @throws Unavailable Redis cannot be reached.
   */
  async complete(what: string | CompletionArguments, options: JobOptions = {}): Promise<JobId<CompletionResult>> {
    const pipe = this.pipeline();
    const job = pipe.complete(what, options);
    await pipe.send();
    return job;
  }

  /**
   * Enqueue an email. The email is sent once, even if it is enqueued again with the same `jobId`.
   *
   * @param email The arguments as in Resend's API.
   * @returns The job's id.
   * @throws Unavailable Redis cannot be reached.
   */
  async sendEmail(email: EmailArguments, options: JobOptions = {}): Promise<JobId<EmailResult>> {
    const pipe = this.pipeline();
    const job = pipe.sendEmail(email, options);
    await pipe.send();
    return job;
  }

  /** Collect jobs; `send` enqueues them together, all or none. */
  pipeline(): Pipeline {
    return new Pipeline(this.#broker, this.#pool, this.#trackStarted);
  }

  /**
   * Return the state of a job, and why it waits or how it ended.
   *
   * @param place Also ask a worker which place a waiting job has, and when it may start.
   * @throws ResultTimeout No worker answered in time.
   * @throws Unavailable Redis cannot be reached.
   */
  async status<Result>(job: JobId<Result>, options: { place?: boolean } = {}): Promise<Status<Result>> {
    checkJob(job);
    const { place = false } = objectOf(options, "options");
    const status = statusOf((await this.#results("GET", recordOf(job))) as string | null);
    if (!place || status.state !== "waiting") return status;
    const found = await this.#ask("tasks.admin.place", { id: job }, {});
    if (!found.place) return this.status(job);
    return { ...status, place: found.place, expectedStart: instant(found.expected_start) };
  }

  /**
   * Wait for a job's result, also while the job is deferred. After a time-out the job goes on.
   *
   * @throws JobFailed The job failed; `JobCancelled` if it was cancelled.
   * @throws ResultTimeout The job has not ended in time.
   * @throws Unavailable Redis could not be reached at the end of the time.
   */
  async result<Result>(job: JobId<Result>, options: WaitOptions = {}): Promise<Result> {
    checkJob(job);
    const { timeoutMs = TIMEOUT_MS, signal } = objectOf(options, "options");
    checkWait({ timeoutMs, signal });
    const status = await this.#endings.wait(job, timeoutMs, signal);
    if (!hasEnded(status)) throw new ResultTimeout(job, status, timeoutMs);
    if (status.state !== "done") throw failureOf(job, status);
    return status.result as Result;
  }

  /**
   * Yield the pieces of an answer as they arrive, until it is complete.
   *
   * The job needs `stream: true`. Without it, or after the stream has expired, the result comes as one piece.
   *
   * @throws JobFailed The job failed; `JobCancelled` if it was cancelled.
   * @throws ResultTimeout Nothing came for `timeoutMs`.
   * @throws Unavailable Redis cannot be reached.
   */
  async *stream(job: JobId, options: StreamOptions = {}): AsyncGenerator<StreamEvent, void, undefined> {
    checkJob(job);
    const { timeoutMs = TIMEOUT_MS, signal, after: known = "0" } = objectOf(options, "options");
    checkWait({ timeoutMs, signal });
    let after = afterOf(known);
    let [heardAt, lookedAt, pauseMs] = [performance.now(), -Infinity, FIRST_PAUSE_MS];
    let silenceMs = FIRST_SILENCE_MS;
    let ended: Ended | undefined;
    while (true) {
      signal?.throwIfAborted();
      const name = `${this.#namespace}:stream:${job}`;
      const rows = (await this.#pool("XRANGE", name, `(${after}`, "+", "COUNT", "500")) as Row[];
      for (const row of rows) {
        after = row[0];
        const event = eventOf(job, row);
        if (!event) continue; // another program, which shares the Redis, wrote it
        yield event;
        if (event.type === "end") return;
      }
      const now = performance.now();
      if (rows.length) {
        [heardAt, lookedAt, pauseMs] = [now, now, FIRST_PAUSE_MS];
      } else if (ended) {
        yield* eventsOfResult(job, ended);
        return;
      } else if (now - lookedAt >= silenceMs || now - heardAt >= timeoutMs) {
        const status = await this.status(job);
        lookedAt = now;
        silenceMs = Math.min(2 * silenceMs, LONGEST_SILENCE_MS);
        if (hasEnded(status)) {
          ended = status; // read the stream once more: its end is written before the result
          continue;
        }
        if (now - heardAt >= timeoutMs) throw new ResultTimeout(job, status, timeoutMs);
      }
      await pause(pauseMs);
      pauseMs = Math.min(pauseMs * 1.2, LONGEST_PAUSE_MS);
    }
  }

  /**
   * Cancel a job for good: no worker calls a provider for it any more.
   *
   * A call in flight is not interrupted, and the job then ends with its result.
   *
   * @returns Whether the job was cancelled; false if it had already ended.
   * @throws Unavailable Redis cannot be reached.
   */
  async cancel(job: JobId): Promise<boolean> {
    if (await this.#hasEnded(job)) return false;
    await this.#pool("SET", `${this.#namespace}:cancelled:${job}`, "1", "EX", String(CANCEL_KEPT_S));
    await this.#pool("PUBLISH", `${this.#namespace}:cancelled`, job);
    return true;
  }

  /**
   * Ask a worker for the state of the API keys, by service.
   *
   * @throws ResultTimeout No worker answered in time.
   * @throws Unavailable Redis cannot be reached.
   */
  async keyStatus(options: WaitOptions = {}): Promise<Record<string, ServiceStatus>> {
    return this.#ask("tasks.admin.key_status", {}, options);
  }

  /**
   * Bring back API keys that rest or were refused.
   *
   * @param which Which keys; by default all keys that no person disabled. `by` names the person for the audit trail.
   * @throws JobFailed There is no such key.
   * @throws ResultTimeout No worker answered in time.
   * @throws Unavailable Redis cannot be reached.
   */
  async resetKeys(which: ResetArguments = {}, options: WaitOptions = {}): Promise<ResetResult> {
    return this.#ask("tasks.admin.reset_keys", which, options);
  }

  /**
   * Ask a worker when jobs would start and end if they were enqueued now.
   *
   * @throws JobFailed An argument is wrong.
   * @throws ResultTimeout No worker answered in time.
   * @throws Unavailable Redis cannot be reached.
   */
  async quote(what: QuoteArguments, options: WaitOptions = {}): Promise<QuoteResult> {
    const found = await this.#ask("tasks.admin.quote", what, options);
    const [expected_start, start_by, end_by] = [found.expected_start, found.start_by, found.end_by].map(instant);
    return { ...found, expected_start, start_by, end_by };
  }

  async #hasEnded(job: JobId): Promise<boolean> {
    try {
      return hasEnded(await this.status(job));
    } catch (error) {
      if (error instanceof UnreadableRecord) return false; // the job may still run
      throw error;
    }
  }

  async #ask(task: string, args: object, options: WaitOptions): Promise<any> {
    checkWait(objectOf(options, "options"));
    const pipe = this.pipeline();
    const job = pipe.add(task, args);
    await pipe.send();
    return this.result(job, options);
  }
}
