/** Waits for many jobs to end, with one command at a time. */

import type { Send } from "./connection.js";
import { Unavailable, UnreadableRecord } from "./errors.js";
import { hasEnded, type Status, statusOf } from "./status.js";

const PAUSE_MS = 50;

/** The record of a job in the result store. */
export const recordOf = (job: string) => `celery-task-meta-${job}`;

interface Waiter {
  job: string;
  /** Takes a status, or the error in its place; returns whether the wait is over. */
  look: (status: Status | Unavailable | UnreadableRecord) => boolean;
}

/** Reads the records of all awaited jobs together. */
export class Endings {
  readonly #send: Send;
  #waiters = new Set<Waiter>();
  #looking = false;

  constructor(send: Send) {
    this.#send = send;
  }

  /**
   * Wait until a job has ended or the time is over, also while Redis is away.
   *
   * @returns The status of the job at that moment.
   * @throws Unavailable Redis could not be reached at the end of the time.
   */
  wait(job: string, timeoutMs: number, signal?: AbortSignal): Promise<Status> {
    const deadline = performance.now() + timeoutMs;
    return new Promise((resolve, reject) => {
      this.#waiters.add({
        job,
        look(status) {
          if (signal?.aborted) {
            reject(signal.reason);
            return true;
          }
          if (status instanceof UnreadableRecord) {
            reject(status);
            return true;
          }
          const isLate = performance.now() >= deadline;
          if (status instanceof Unavailable) {
            if (isLate) reject(status);
            return isLate;
          }
          const isOver = isLate || hasEnded(status);
          if (isOver) resolve(status);
          return isOver;
        },
      });
      if (!this.#looking) void this.#look();
    });
  }

  async #look(): Promise<void> {
    this.#looking = true;
    while (this.#waiters.size) {
      const waiters = [...this.#waiters];
      const statuses = await this.#statuses(waiters);
      waiters.forEach((waiter, index) => {
        if (waiter.look(statuses[index]!)) this.#waiters.delete(waiter);
      });
      if (this.#waiters.size) await pause(PAUSE_MS);
    }
    this.#looking = false;
  }

  async #statuses(waiters: Waiter[]): Promise<(Status | Unavailable | UnreadableRecord)[]> {
    try {
      const found = await this.#send("MGET", ...waiters.map(({ job }) => recordOf(job)));
      return (found as (string | null)[]).map(statusOrError);
    } catch (error) {
      const away = error instanceof Unavailable ? error : new Unavailable(error);
      return waiters.map(() => away);
    }
  }
}

function statusOrError(text: string | null): Status | UnreadableRecord {
  try {
    return statusOf(text);
  } catch (error) {
    return error as UnreadableRecord; // the error concerns this job only
  }
}

/** Wait for some milliseconds. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
