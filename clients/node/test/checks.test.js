// Without a Redis: what is refused where it is given, and what others wrote.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Keywheel, UnreadableRecord } from "keywheel-client";

const TIMEOUT_MS = 5_000;
const silent = { call: async () => null };

/** A client whose Redis holds these records, by their names, and these streams. */
function holding(records = {}, streams = {}) {
  return new Keywheel({
    call: async (command, ...args) => {
      if (command === "GET") return records[args[0]] ?? null;
      if (command === "MGET") return args.map((name) => records[name] ?? null);
      return command === "XRANGE" ? streams[args[0]]?.splice(0) ?? [] : "OK";
    },
  });
}

test("what is no argument is a sentence", async () => {
  const keywheel = new Keywheel(silent);
  for (const wrong of [undefined, null, 5, ["x"], () => "x"]) {
    await assert.rejects(keywheel.complete(wrong), {
      name: "TypeError",
      message: /^the argument of `complete`, unless it is a prompt, must be an object, but is /,
    });
    const sentence = /^TypeError: the argument of `sendEmail` must be an object, but is /;
    await assert.rejects(keywheel.sendEmail(wrong), sentence);
    await assert.rejects(keywheel.quote(wrong), /the argument for tasks.admin.quote must be an object, but is /);
  }
  await assert.rejects(keywheel.resetKeys(null), /argument for tasks.admin.reset_keys must be an object, but is null/);
  assert.throws(() => keywheel.pipeline().add("tasks.ai2.complete", {}), /there is no task tasks.ai2.complete/);
  assert.throws(() => keywheel.pipeline().add(undefined, {}), /there is no task undefined/);
});

test("what JSON would write as something else is named", () => {
  const pipe = new Keywheel(silent).pipeline();
  const wrong = { metadata: new Map([["a", 1]]), documents: new Set(["a"]), seed: 5n, temperature: Infinity };
  for (const [name, value] of Object.entries(wrong)) {
    assert.throws(() => pipe.complete({ prompt: "x", [name]: value }), { name: "TypeError", message: RegExp(`^${name} is `) });
  }
});

const NO_OPTION = {
  jobId: [[5, "", "a b", {}, ["a"]], /jobId must have 1 to 200 visible/],
  priority: [[-1, 10, 1.5, "5", true, NaN], /priority must be a whole number from 0 to 9/],
  expiresS: [[0, -5, NaN, Infinity, -Infinity, 1e10, "5", true, 5n], /expiresS must be a number of seconds above 0/],
  tenant: [[5, "", "a b", {}, ["a"]], /tenant must have 1 to 200 printable/],
};

for (const [option, [values, message]] of Object.entries(NO_OPTION)) {
  test(`what is no ${option} is refused`, async () => {
    const keywheel = new Keywheel(silent);
    for (const value of values) {
      await assert.rejects(keywheel.complete("x", { [option]: value }), { name: "TypeError", message });
      await assert.rejects(keywheel.sendEmail({}, { [option]: value }), { name: "TypeError", message });
    }
    await keywheel.complete("x", { [option]: null }); // as if it were not given
    await keywheel.complete("x", { [option]: undefined });
  });
}

test("options that are none are refused, and null is as none", async () => {
  const keywheel = new Keywheel(silent);
  for (const wrong of [5, "x", []]) {
    await assert.rejects(keywheel.complete("x", wrong), /options must be an object, but is /);
    await assert.rejects(keywheel.result("x", wrong), /options must be an object, but is /);
    await assert.rejects(keywheel.status("x", wrong), /options must be an object, but is /);
    await assert.rejects(keywheel.keyStatus(wrong), /options must be an object, but is /);
    assert.throws(() => new Keywheel(silent, wrong), /options must be an object, but is /);
  }
  await keywheel.complete("x", null);
  assert.deepEqual(await keywheel.status("x", null), { state: "waiting" });
});

test("what is no job is looked up nowhere", async () => {
  const keywheel = new Keywheel(silent);
  for (const wrong of [undefined, null, "", 5, {}]) {
    for (const call of ["status", "result", "cancel"]) {
      await assert.rejects(keywheel[call](wrong), /^TypeError: job must be a job's id, as `complete` returns it, but is /);
    }
    await assert.rejects(keywheel.stream(wrong).next(), /job must be a job's id/);
  }
});

test("what is no time, no signal and no place in a stream is refused", async () => {
  const keywheel = new Keywheel(silent);
  for (const timeoutMs of [NaN, "5", null, true]) {
    await assert.rejects(keywheel.result("x", { timeoutMs }), /timeoutMs must be a number of milliseconds, or Infinity/);
    await assert.rejects(keywheel.stream("x", { timeoutMs }).next(), /timeoutMs must be a number/);
    await assert.rejects(keywheel.keyStatus({ timeoutMs }), /timeoutMs must be a number/);
  }
  for (const signal of [5, {}, new AbortController()]) {
    await assert.rejects(keywheel.result("x", { signal }), /signal must be an AbortSignal/);
  }
  for (const after of ["x", "$", "5-", 5]) {
    await assert.rejects(keywheel.stream("x", { after }).next(), /after must be the id of an event of the stream, or 0/);
  }
});

test("what is no client of Redis is named", () => {
  for (const wrong of [undefined, null, "redis://127.0.0.1", {}]) {
    assert.throws(() => new Keywheel(wrong), /^TypeError: redis must be a client of redis or ioredis, but is /);
  }
  assert.throws(() => new Keywheel(silent, { results: {} }), /results must be a client of redis or ioredis/);
  assert.throws(() => new Keywheel(silent, { pool: {} }), /pool must be a client of redis or ioredis/);
  assert.throws(() => new Keywheel(silent, { namespace: 5 }), /namespace must be a string, but is 5/);
});

test("a record of another program is a sentence, and harms no other job", { timeout: TIMEOUT_MS }, async () => {
  for (const record of ["no JSON", "5", "null", "[]", '{"status": 5}']) {
    const keywheel = holding({
      "celery-task-meta-broken": record,
      "celery-task-meta-fine": JSON.stringify({ status: "SUCCESS", result: "x" }),
    });
    const [broken, fine] = await Promise.allSettled([keywheel.result("broken"), keywheel.result("fine")]);
    assert.ok(broken.reason instanceof UnreadableRecord, record);
    assert.match(broken.reason.message, /not a JSON record of Celery/);
    assert.equal(fine.value, "x");
    await assert.rejects(keywheel.status("broken"), UnreadableRecord);
    assert.equal(await keywheel.cancel("broken"), true);
  }
});

test("what others wrote into a stream is passed over", { timeout: TIMEOUT_MS }, async () => {
  const rows = [
    ["5-1", ["of", "another program"]],
    ["5-2", ["type", "delta", "tool_calls", "["]],
    ["5-3", ["type", "delta", "text", "a"]],
    ["5-4", ["type", "end", "status", "done"]],
  ];
  const events = [];
  for await (const event of holding({}, { "kw:stream:x": rows }).stream("x")) events.push([event.id, event.type]);
  assert.deepEqual(events, [["5-3", "delta"], ["5-4", "end"]]);
});

test("the result of a job that is no completion can be read as a stream", { timeout: TIMEOUT_MS }, async () => {
  for (const result of [null, "sent", { id: "5" }]) {
    const types = [];
    const keywheel = holding({ "celery-task-meta-x": JSON.stringify({ status: "SUCCESS", result }) });
    for await (const event of keywheel.stream("x")) types.push(event.type);
    assert.deepEqual(types, ["restart", "delta", "end"]);
  }
});
