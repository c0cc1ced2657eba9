// Against a real worker: REDIS_URL names its Redis, SANDBOX the control address of its simulated providers.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Redis } from "ioredis";
import { JobCancelled, JobFailed, Keywheel, ResultTimeout, Unavailable } from "keywheel-client";
import { createClient } from "redis";

const { REDIS_URL: url, SANDBOX: sandbox } = process.env;

const control = (path, body) => fetch(`${sandbox}/${path}`, { method: "POST", body: JSON.stringify(body) });

async function eventually(look) {
  for (const deadline = Date.now() + 20_000; Date.now() < deadline; ) {
    const found = await look();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`${look} did not come true`);
}

function shown(events) {
  let text = "";
  for (const event of events) {
    if (event.type === "start" || event.type === "restart") text = "";
    if (event.type === "delta") text += event.text;
  }
  return text;
}

async function collect(stream) {
  const found = [];
  for await (const event of stream) found.push(event);
  return found;
}

const clients = {
  redis: async () => {
    const redis = await createClient({ url }).connect();
    return [redis, () => redis.close()];
  },
  ioredis: async () => {
    const redis = new Redis(url);
    return [redis, () => redis.quit()];
  },
};

for (const [name, connect] of Object.entries(clients)) {
  describe(`over ${name}`, () => {
    let keywheel, close;

    before(async () => {
      let redis;
      [redis, close] = await connect();
      keywheel = new Keywheel(redis);
      await control("reset", {});
      await keywheel.resetKeys({ include_disabled: true, by: "a test" });
    });
    after(() => close());

    test("jobs of a pipeline are enqueued together and awaited together", async () => {
      const pipe = keywheel.pipeline();
      const answers = [1, 2, 3].map((number) => pipe.complete(`Say ${number}`, { priority: number * 3, tenant: "acme" }));
      const mail = pipe.sendEmail({
        to: "ann@example.com",
        subject: "Hello",
        text: "x",
        attachments: [{ filename: "a.txt", content: Buffer.from("abc") }],
      });
      assert.throws(() => pipe.complete("x", { tenant: "a b" }), /tenant must have 1 to 200/);
      assert.throws(() => pipe.complete("x", { jobId: "a b" }), /jobId must have 1 to 200/);
      await pipe.send();
      await pipe.send();
      const results = await Promise.all(answers.map((job) => keywheel.result(job)));
      assert.ok(results.every(({ text, attempts }) => text && attempts >= 1));
      assert.ok((await keywheel.result(mail)).id);
      assert.equal((await keywheel.status(mail, { place: true })).state, "done");
      const quote = await keywheel.quote({ service: "groq", jobs: 3, tokens: 100 });
      assert.ok(quote.end_by.getTime() >= quote.start_by.getTime());
      assert.deepEqual([quote.jobs, quote.tokens], [3, 100]);
      assert.deepEqual(await keywheel.status("no-such-job", { place: true }), { state: "waiting" });
    });

    test("a job that fails says why", async () => {
      const job = await keywheel.sendEmail({ to: "ann", subject: "Hello", text: "x" });
      await assert.rejects(keywheel.result(job), (error) => {
        assert.ok(error instanceof JobFailed && !(error instanceof JobCancelled));
        assert.equal(error.error, "InvalidArguments");
        assert.match(error.reason, /is not an email address/);
        return true;
      });
      await assert.rejects(collect(keywheel.stream(job)), JobFailed);
    });

    test("a stream is read from where it was left, and from the result", async () => {
      const job = await keywheel.complete({ prompt: "x", stream: true });
      const first = [];
      for await (const event of keywheel.stream(job)) {
        first.push(event);
        if (event.type === "delta") break;
      }
      const rest = await collect(keywheel.stream(job, { after: first.at(-1).id }));
      const { text } = await keywheel.result(job);
      assert.equal(shown([...first, ...rest]), text);
      assert.ok(rest.at(-1).usage.total_tokens > 0);
      const plain = await keywheel.complete("x");
      const types = (await collect(keywheel.stream(plain))).map(({ type }) => type);
      assert.deepEqual(types, ["restart", "delta", "end"]);
      await assert.rejects(collect(keywheel.stream("no-such-job", { timeoutMs: 50 })), ResultTimeout);
      const signal = AbortSignal.timeout(50);
      await assert.rejects(collect(keywheel.stream("no-such-job", { signal })), { name: "TimeoutError" });
      await assert.rejects(keywheel.result("no-such-job", { signal }), { name: "TimeoutError" });
    });

    test("a job runs, is deferred and is cancelled for good", async () => {
      await control("fault", { service: "groq", kind: "hang", hang_s: 1.5, count: 1 });
      const slow = await keywheel.complete("x");
      await eventually(async () => (await keywheel.status(slow)).state === "running");
      assert.ok((await keywheel.result(slow)).text);
      await control("exhaust", { service: "groq", seconds: 30 });
      const job = await keywheel.complete({ prompt: "x", stream: true });
      const status = await eventually(async () => {
        const found = await keywheel.status(job);
        return found.state === "deferred" && found;
      });
      assert.deepEqual([status.waitsFor, status.code], ["key", "rpm"]);
      assert.ok(status.nextTry.getTime() <= status.expectedEnd.getTime());
      await assert.rejects(keywheel.result(job, { timeoutMs: 50 }), (error) => {
        assert.ok(error instanceof ResultTimeout);
        assert.equal(error.status.state, "deferred");
        return true;
      });
      const { keys } = (await keywheel.keyStatus()).groq;
      assert.ok(keys.some(({ state }) => state === "cooling"));
      assert.equal(await keywheel.cancel(job), true);
      await assert.rejects(keywheel.result(job), JobCancelled);
      await assert.rejects(collect(keywheel.stream(job)), JobCancelled);
      assert.equal(await keywheel.cancel(job), false);
    });
  });
}

test("a Redis that cannot be reached is told apart from a job that failed", async () => {
  const redis = new Redis("redis://127.0.0.1:1", { maxRetriesPerRequest: 0, retryStrategy: null, lazyConnect: true });
  redis.on("error", () => {});
  const keywheel = new Keywheel(redis);
  await assert.rejects(keywheel.complete("x"), Unavailable);
  await assert.rejects(keywheel.result("x", { timeoutMs: 50 }), Unavailable);
  redis.disconnect();
});

test("what cannot be written as JSON is refused where it is given", () => {
  const pipe = new Keywheel({ call: async () => null }).pipeline();
  assert.throws(() => pipe.complete({ prompt: "x", temperature: NaN }), /temperature is NaN/);
  const mail = { to: "a@example.com", subject: "x", text: "x", scheduled_at: new Date("soon") };
  assert.throws(() => pipe.sendEmail(mail), /scheduled_at is an invalid Date/);
  assert.throws(() => pipe.complete("x", { priority: 10 }), TypeError);
});
