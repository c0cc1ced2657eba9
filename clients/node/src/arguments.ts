/** The arguments of the tasks, under the same names as in the messages. The worker checks the values. */

export type JsonObject = Record<string, unknown>;
export type Recipients = string | readonly string[];

/**
 * The arguments of `tasks.ai.complete`, with the same meaning as in Groq's API.
 *
 * Give either `prompt` or `messages`. A message may also be the result of an earlier completion. With `stream` the
 * answer can be read while it arrives.
 */
export interface CompletionArguments {
  messages?: readonly object[];
  prompt?: string;
  model?: string;
  models?: readonly string[];
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
  max_completion_tokens?: number;
  frequency_penalty?: number;
  presence_penalty?: number;
  seed?: number;
  stop?: string | readonly string[];
  n?: 1;
  response_format?: JsonObject;
  tools?: readonly JsonObject[];
  tool_choice?: string | JsonObject;
  parallel_tool_calls?: boolean;
  reasoning_effort?: string;
  reasoning_format?: string;
  include_reasoning?: boolean;
  service_tier?: "auto" | "on_demand" | "flex" | "performance";
  user?: string;
  documents?: readonly JsonObject[];
  citation_options?: "enabled" | "disabled";
  compound_custom?: JsonObject;
  search_settings?: JsonObject;
  include_domains?: readonly string[];
  exclude_domains?: readonly string[];
  disable_tool_validation?: boolean;
  functions?: readonly JsonObject[];
  function_call?: string | JsonObject;
  logit_bias?: Record<string, number>;
  logprobs?: boolean;
  top_logprobs?: number;
  metadata?: Record<string, string>;
  store?: boolean;
  stream?: boolean;
  dedupe_key?: string;
  notify?: string;
  deadline_s?: number;
}

/** One attachment: `content` (bytes, or Base64) or `path` (a URL that Resend fetches). */
export interface Attachment {
  filename?: string;
  content?: Uint8Array | string;
  path?: string;
  content_type?: string;
  content_id?: string;
  inline_content_id?: string;
}

/** A name and a value for the sender's own use. */
export interface Tag {
  name: string;
  value?: string;
}

/** A template that is published at Resend, and the values of its variables. */
export interface Template {
  id: string;
  variables?: Record<string, string | number>;
}

/** The arguments of `tasks.email.send`, with the same meaning as in Resend's API. */
export interface EmailArguments {
  from?: string;
  to: Recipients;
  cc?: Recipients;
  bcc?: Recipients;
  reply_to?: Recipients;
  subject?: string;
  html?: string;
  text?: string;
  template?: Template;
  attachments?: readonly Attachment[];
  tags?: readonly Tag[];
  headers?: Record<string, string>;
  scheduled_at?: string | Date;
  topic_id?: string;
  idempotency_key?: string;
  dedupe_key?: string;
  notify?: string;
  deadline_s?: number;
}

/** The arguments of `tasks.admin.reset_keys`: which keys to bring back, and the person who asks. */
export interface ResetArguments {
  service?: "groq" | "resend";
  key?: string;
  include_disabled?: boolean;
  by?: string;
}

/** The arguments of `tasks.admin.quote`. */
export interface QuoteArguments {
  service: "groq" | "resend";
  /** By default the first model in the workers' settings. */
  model?: string;
  /** How many jobs; by default one. */
  jobs?: number;
  /** Tokens of each job; by default the average of past calls. */
  tokens?: number;
}
