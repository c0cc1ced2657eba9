/** Enqueues several jobs together. */

import type { CompletionArguments, EmailArguments } from "./arguments.js";
import { checkArguments } from "./checks.js";
import type { Send } from "./connection.js";
import { type JobId, type JobOptions, type Message, messageOf } from "./messages.js";
import type { CompletionResult, EmailResult } from "./results.js";

// The lists are in ARGV: to name them in KEYS, a user would need the right to read them, which a web application
// should not have.
const PUSH = "for i = 1, #ARGV, 2 do redis.call('LPUSH', ARGV[i], ARGV[i + 1]) end";

/** Collects jobs, and enqueues them together with `send`, all or none. */
export class Pipeline {
  #messages: Message[] = [];
  readonly #send: Send;
  readonly #pool: Send;
  readonly #trackStarted: boolean;

  /** Called by `Keywheel.pipeline`. */
  constructor(send: Send, pool: Send, trackStarted: boolean) {
    this.#send = send;
    this.#pool = pool;
    this.#trackStarted = trackStarted;
  }

  /** Add a completion; the arguments are those of `Keywheel.complete`. */
  complete(what: string | CompletionArguments, options: JobOptions = {}): JobId<CompletionResult> {
    const args = typeof what === "string" ? { prompt: what } : what;
    checkArguments(args, "the argument of `complete`, unless it is a prompt,");
    return this.add("tasks.ai.complete", args, options);
  }

  /** Add an email; the arguments are those of `Keywheel.sendEmail`. */
  sendEmail(email: EmailArguments, options: JobOptions = {}): JobId<EmailResult> {
    checkArguments(email, "the argument of `sendEmail`");
    return this.add("tasks.email.send", email, options);
  }

  /** Add a job of any task of Keywheel's. */
  add(task: string, args: object, options: JobOptions = {}): JobId {
    const message = messageOf(task, args, options, this.#trackStarted);
    this.#messages.push(message);
    return message.job;
  }

  /**
   * Enqueue the jobs in one round trip, in two if one has a `dedupe_key`. A second call does nothing.
   *
   * @throws Unavailable Redis cannot be reached.
   */
  async send(): Promise<void> {
    const messages = this.#messages;
    this.#messages = [];
    const nowMs = messages.some(({ hasDedupeKey }) => hasDedupeKey) ? await this.#now() : 0;
    const [first, ...others] = messages;
    if (first && !others.length) {
      await this.#send("LPUSH", first.list, first.text(nowMs));
    } else if (first) {
      await this.#send("EVAL", PUSH, "0", ...messages.flatMap(({ list, text }) => [list, text(nowMs)]));
    }
  }

  /** Read the clock of the Redis that records when the job with a dedupe key ended. */
  async #now(): Promise<number> {
    const [seconds, microseconds] = (await this.#pool("TIME")) as [string, string];
    return Number(seconds) * 1000 + Math.floor(Number(microseconds) / 1000);
  }
}
