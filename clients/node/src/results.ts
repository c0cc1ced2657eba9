/** The results of the tasks. A result may have more fields than are named here. */

/** The fields of each result that describe its calls. */
interface Served {
  /** The label of the key that served the job. */
  key: string;
  /** How many calls were made, over all runs. */
  attempts: number;
  /** Seconds spent waiting for keys. */
  waited_s: number;
}

/** One call of a tool; `arguments` is JSON. */
export interface ToolCall {
  id: string;
  type: string;
  function: { name: string; arguments: string };
}

/** A piece of a call in a stream; merge the pieces by their `index`. */
export interface ToolCallDelta {
  index?: number;
  id?: string;
  type?: string;
  function?: { name?: string; arguments?: string };
}

/** How many tokens a completion used, and its times at Groq in seconds. */
export interface Usage {
  prompt_tokens?: number;
  completion_tokens?: number;
  total_tokens?: number;
  prompt_tokens_details?: Record<string, number>;
  completion_tokens_details?: Record<string, number>;
  queue_time?: number;
  prompt_time?: number;
  completion_time?: number;
  total_time?: number;
}

/** The result of `tasks.ai.complete`. */
export interface CompletionResult extends Served {
  text: string;
  reasoning: string;
  tool_calls: ToolCall[];
  finish_reason: string | null;
  model: string | null;
  usage: Usage;
  service_tier: string | null;
  request_id: string | null;
  empty_because?: string;
}

/** The result of `tasks.email.send`. */
export interface EmailResult extends Served {
  /** The email's id at Resend. */
  id: string;
}

/** The state of one API key: whether it is ready, and if not, why and for how long (`left_ms`). */
export interface KeyStatus {
  id: string;
  label: string;
  variable: string;
  account: string;
  state: "ready" | "cooling" | "disabled";
  reason: string;
  left_ms: number | null;
  in_flight: number;
  calls: number;
  accepted: number;
  refused: number;
  faults: number;
  rejected: number;
  tokens: number;
  used_ms: number;
  note: string;
  blocks: Record<string, unknown>[];
  buckets: Record<string, unknown>[];
}

/** The keys of one service at one instant, in milliseconds since 1970. */
export interface ServiceStatus {
  service: string;
  now_ms: number;
  summary: Record<string, number>;
  keys: KeyStatus[];
}

/** Why a key, an account or a model was blocked. */
export interface Block {
  scope: string;
  name: string;
  key: string;
  state: string;
  reason: string;
  disabled_by: string;
}

/** By service: how many blocks a reset cleared, which ones, and what stays disabled. */
export interface ResetResult {
  reset: Record<string, number>;
  brought_back: Record<string, Block[]>;
  left_disabled: Record<string, Block[]>;
}

/** When jobs that are not enqueued yet would start and end. An instant is null if it is not known. */
export interface QuoteResult {
  service: "groq" | "resend";
  /** The assumed model; empty if the service has no models. */
  model: string;
  jobs: number;
  /** The assumed tokens of each job. */
  tokens: number;
  /** How many jobs wait before these jobs; null if the broker does not report it. */
  waiting: number | null;
  /** When the keys allow the first job's call, if nothing changes. */
  expected_start: Date | null;
  /** The instant by which the first job has started, in nine of ten cases. */
  start_by: Date | null;
  /** The instant by which the last job has ended, in nine of ten cases. */
  end_by: Date | null;
  /**
   * The cause of the last job's wait: a limit such as `rpm`, the reason of a rest, `paused`, `disabled` or `no key`;
   * empty if no job has to wait.
   */
  limited_by: string;
  /** From how many outcomes the margin of `end_by` was learned; 0 if it is assumed. */
  learned_from: number;
}
