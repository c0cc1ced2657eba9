/** What the tasks return. A result may hold more than is named here. */

/** How a job of a service went. */
interface Served {
  /** The label of the key that served. */
  key: string;
  /** Calls made, over all runs. */
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

/** A piece of a call in a stream; add the pieces up by their `index`. */
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

/** What `tasks.ai.complete` returns. */
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

/** What `tasks.email.send` returns. */
export interface EmailResult extends Served {
  /** The email's id at Resend. */
  id: string;
}

/** One API key: why it does not serve, and for how much longer. */
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

/** When jobs would start and end that are not enqueued yet. An instant is null where it is not known. */
export interface QuoteResult {
  service: "groq" | "resend";
  /** The model that was assumed; empty where the service has none. */
  model: string;
  jobs: number;
  /** Tokens a job, as assumed. */
  tokens: number;
  /** How many jobs wait before them; null: the broker does not say. */
  waiting: number | null;
  /** When the keys allow the first job's call, if nothing changes. */
  expected_start: Date | null;
  /** By when it has started in nine of ten cases. */
  start_by: Date | null;
  /** By when the last job has ended in nine of ten cases. */
  end_by: Date | null;
  /** What decides the end, such as `rpm`; empty where nothing has to wait. */
  limited_by: string;
  /** How many outcomes the margin of `end_by` rests on; 0: it is assumed. */
  learned_from: number;
}
