/** Keywheel's client for Node: enqueue jobs, follow them, cancel them. */

export type * from "./arguments.js";
export type { RedisClient } from "./connection.js";
export { JobCancelled, JobFailed, KeywheelError, ResultTimeout, Unavailable, UnreadableRecord } from "./errors.js";
export type { StreamEvent } from "./events.js";
export { Keywheel, type KeywheelOptions, type StreamOptions, type WaitOptions } from "./keywheel.js";
export { type JobId, type JobOptions } from "./messages.js";
export { type Pipeline } from "./pipeline.js";
export type * from "./results.js";
export type { Status } from "./status.js";
