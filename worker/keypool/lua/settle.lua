-- requires: prelude, blocks, buckets, reservations, learn
-- settle: end a lease (ARGV 2) with its settlement (3, from settlement.py). If the lease had expired, its charge is not
-- corrected, but what the answer taught holds. Returns the time, and what scripts.py parses as `Settled`.

local GROWTH, LONGEST_REST_MS = 1.125, 10000  -- a host or model rests for an eighth of the time that it has failed
local LATEST = '^' .. ('[^\n]*\n?'):rep(7)  -- up to seven lines: the key's earlier calls that are kept
local SERVED_MS = 600000       -- how recently a key must have served to be reinstated
local MODELS_KEPT, OK_NOTED_MS = 64, 250  -- the last success is noted at most this often

local answer = cjson.decode(ARGV[3])
local ok_ms = tonumber(redis.call('HGET', counters, 'ok_ms:' .. answer.model) or 0)
local outcome, event, reason, by = answer.outcome, answer.event, answer.reason, answer.by
local name, key, lease = answer.account .. ':' .. answer.model, root .. ':key:' .. answer.key, end_lease(ARGV[2])
local pair = root .. ':account_model:' .. name
local buckets, turned_ms = read_buckets(pair)
local learned, known_already = {}, answer.again and not lease  -- the first settle arrived; only its reply was lost
-- The remainder that the provider states excludes a counted call's reservation. So its unused part is added afterwards.
if lease and not answer.counted then put_right(buckets, lease) end
learn_limits(buckets, answer.limits or {}, outcome == 'refused' and lease, answer.stated_ms, learned)
learn_quotas(buckets, answer.quotas or {}, lease, outcome, learned)
if lease and answer.counted then put_right(buckets, lease, answer) end
if outcome == 'ok' then speed_up(buckets, lease, learned) end
local ramp = buckets.ramp
if ramp and outcome == 'refused' and not answer.limits then ramp.limit = max(1, floor(ramp.limit / 2)) end
if answer.uncapped and buckets.otpm then buckets.otpm.capped = true end
save_buckets(pair, buckets)
for _, what in ipairs(learned) do audit('audit', 'limit_learned', 'account_model', name, what, 0, by) end
if answer.turned_down then redis.call('HSET', pair, 'turned_ms', now)
elseif turned_ms and outcome == 'ok' then redis.call('HDEL', pair, 'turned_ms') end

-- There is room sooner than the waiting lines expect, so they are woken.
local noted, ok = outcome == 'ok' and now - ok_ms >= OK_NOTED_MS, outcome == 'ok'
if outcome == 'unused' or lease and lease.tried and ok then redis.call('PUBLISH', root .. ':wake', 'room') end
local passing = outcome == 'fault' and lease and ok_ms >= lease.start_ms
if noted then
  redis.call('HSET', counters, 'ok_ms:' .. answer.model, now)
  redis.call('PEXPIRE', pair, STATE_TTL_MS)
end
if answer.real and (noted or outcome ~= 'ok') and redis.call('ZADD', root .. ':models', now, answer.model) > 0 then
  redis.call('ZREMRANGEBYRANK', root .. ':models', 0, -MODELS_KEPT - 1)
end
local counts = redis.call('HMGET', key, outcome, 'tokens', 'latest', 'account', 'ok_ms')
if outcome ~= 'unused' and not known_already then
  local line = cjson.encode({now + late_ms, reason or outcome, by, answer.model})  -- for people, the latest one first
  redis.call('HSET', key, outcome, (counts[1] or 0) + 1, outcome .. '_ms', now,
    'tokens', (counts[2] or 0) + (answer.tokens or 0), 'latest', line .. '\n' .. (counts[3] or ''):match(LATEST))
end
if answer.learned and counts[4] ~= answer.learned then
  redis.call('HSET', key, 'account', answer.learned)
  audit('audit', 'account_learned', 'key', answer.key, answer.learned, 0, by)
end

local blocked, newly, alone = 0, 0, 0
local function read_block(scope) return read_blocks({scope})[1] or {until_ms = 0} end

-- Blocks a target {scope, kind, name for people} for calls of from_tokens or more. A rest never becomes shorter.
local function block_calls(target, block, event, until_ms, from_tokens)
  local scope, kind, called = unpack(target)
  local was_ms = block.until_ms > now and block.until_ms or 0
  block.from_tokens = was_ms > 0 and min(from_tokens, block.from_tokens or 0) or from_tokens
  if until_ms > was_ms then
    block.until_ms, block.since_ms, block.reason, block.by = until_ms, now, reason, by
    if event ~= 'unfit' or was_ms == 0 then audit('audit', event, kind, called, reason, until_ms, by) end
  end
  save_block(scope, block)
  blocked, newly = 1, was_ms == 0 and 1 or 0
  alone = block.by == by and now - (counts[5] or 0) <= SERVED_MS and 1 or 0
end

for _, scope in ipairs(answer.answered and {'host', 'model:' .. answer.model} or {}) do
  local block = read_block(scope)
  if block.faults then
    block.faults, block.probe_ms = nil, nil
    save_block(scope, block)
  end
end
if answer.fails and not (passing and event) then  -- faults within one second count once
  local block = read_block(answer.fails[1])
  local counts = now - (block.fault_ms or 0) >= FAULTS_APART_MS and block.until_ms <= now and not known_already
  block.probe_ms = nil
  if counts then block.faults, block.fault_ms = (block.faults or 0) + 1, now end
  if counts and block.faults >= BREAKER_FAULTS then
    local rest_ms = min(floor(1000 * GROWTH ^ (block.faults - BREAKER_FAULTS)), LONGEST_REST_MS)
    block_calls(answer.fails, block, 'cooled', now + rest_ms, 0)
  else save_block(answer.fails[1], block) end
end
if event == 'unfit' then redis.call('DEL', pair) end
if event then
  local until_ms = event == 'disabled' and NEVER or now + answer.rest_ms
  local from_tokens = answer.sized and lease and lease.cost.tokens or 0
  block_calls(answer.blamed, read_block(answer.blamed[1]), event, until_ms, from_tokens)
end
return {now, lease and 'ok' or 'late', blocked, newly, passing and 1 or 0, alone, unpack(learned)}
