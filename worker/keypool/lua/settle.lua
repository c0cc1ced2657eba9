-- requires: prelude, buckets, reservations, learn
-- settle: end a lease with what the answer meant. If it had expired, no bucket changes, but what was learned holds.
--
-- ARGV  2 lease id  3 what the answer meant, as JSON without what is false or empty: key (its id), account, model,
--       resource, by (task id)
--       outcome: ok | refused | fault | rejected | unused (no call was made); answered: the provider did its work
--       counted: the provider counted the call; tokens used, input_tokens and output_tokens of them, emails sent,
--       stated_ms (the wait that the provider stated), learned (the account that it named), each if known
--       turned_down: the account refused this request, and may refuse others like it
--       scope, its name, rest_ms and reason if the call failed; effect on that: cool | disable | unfit, or absent
--       sized: the rest of an account_model holds for calls of this size or more
--       uncapped: the answer was too long for the account's limit, though less than that was reserved
--       real: the provider knows the model
--       limits observed, each [dimension, limit, window ms, remaining if known]
--       quotas of which the used part is stated, each [dimension, used, window ms, 1 if the call was refused for it]
-- Returns 'ok' | 'late', until_ms (-1 disabled, 0 free), changed (1: newly blocked), passing (1: another call of the
--         model was accepted after this one began, so a failure is this call's own), learned, …

local FAULTS_APART_MS = 1000
local LONGEST_REST_MS = 10000   -- for a host or model, so that it is used soon after it works again
local MODELS_KEPT = 64
local UNFIT_KEPT = 1000         -- jobs may name any number of models that do not exist
local OK_NOTED_MS = 250         -- the last success is noted at most this often
local STAYS_NOTED_MS = 3600000  -- the expiry of a record in use is put off at most this often
-- How long a record stays after a rest; an account's only briefly, since every acquire looks at those that exist.
local STAYS_MS = {account = 600000, account_model = STATE_TTL_MS, model = STATE_TTL_MS, host = STATE_TTL_MS}

local answer = cjson.decode(ARGV[3])
local ok_ms = read_clock('ok_ms:' .. answer.model)
local outcome, effect, scope, reason, by = answer.outcome, answer.effect, answer.scope, answer.reason, answer.by
local pair_name, key = answer.account .. ':' .. answer.model, root .. ':key:' .. answer.key
local pair = root .. ':account_model:' .. pair_name
local record_of = {key = key, key_resource = key, account = root .. ':account:' .. answer.account, account_model = pair,
  model = root .. ':model:' .. answer.model, host = root .. ':host'}
local lease = end_lease(ARGV[2])

local record = redis.call('HMGET', pair, 'buckets', 'limits', 'turned_ms', 'stays_ms')
local buckets, known, learned = read_buckets(record[1], record[2]), {}, {}
for dimension, bucket in pairs(buckets) do known[dimension] = bucket end
-- A call that was not counted gives back only what it took: limits learned while it was out do not include it. When the
-- provider stated what is left, the reserve of a counted call was still taken out, so what it did not use comes on top.
if lease and not answer.counted then
  for dimension in pairs(lease.took) do
    if buckets[dimension] then correct(buckets[dimension], dimension, lease, answer) end
  end
end
learn_limits(buckets, answer.limits or {}, outcome == 'refused' and lease, answer.stated_ms, learned)
learn_quotas(buckets, answer.quotas or {}, lease, outcome, learned)
if lease and answer.counted then
  for dimension, bucket in pairs(known) do correct(bucket, dimension, lease, answer) end
end
if lease and lease.tried then judge_try(buckets, lease, outcome, learned) end
if outcome == 'ok' then speed_up(buckets) end
-- A refusal that states a limit is answered by its bucket; any other one narrows the ramp.
local ramp = buckets.ramp
if ramp and outcome == 'refused' and not answer.limits then ramp.limit = max(1, floor(ramp.limit / 2)) end
if answer.uncapped and buckets.otpm then buckets.otpm.capped = true end
for _, what in ipairs(learned) do audit('audit', 'limit_learned', 'account_model', pair_name, what, 0, by) end

save_buckets(pair, buckets)
if answer.turned_down then redis.call('HSET', pair, 'turned_ms', now)
elseif record[3] and outcome == 'ok' then redis.call('HDEL', pair, 'turned_ms') end
if now - tonumber(record[4] or 0) > STAYS_NOTED_MS then
  redis.call('HSET', pair, 'stays_ms', now)
  redis.call('PEXPIRE', pair, STATE_TTL_MS)
end

-- Lines learned when to ask again before this was known.
if outcome == 'unused' or lease and lease.tried and outcome == 'ok' then
  redis.call('PUBLISH', root .. ':wake', 'room')
end
local noted = outcome == 'ok' and now - ok_ms >= OK_NOTED_MS
local passing = outcome == 'fault' and lease and ok_ms >= lease.start_ms
if noted then redis.call('HSET', root .. ':inflight', 'ok_ms:' .. answer.model, now) end
local counts = redis.call('HMGET', key, 'in_flight', 'calls', outcome, 'tokens', 'account')
local kept = {'in_flight', max(0, (counts[1] or 0) - (lease and 1 or 0))}
local function keep(field, value) kept[#kept + 1], kept[#kept + 2] = field, value end
if outcome ~= 'unused' then
  keep('calls', (counts[2] or 0) + 1)
  keep(outcome, (counts[3] or 0) + 1)
end
if outcome == 'ok' then keep('ok_ms', now) end
if answer.tokens then keep('tokens', (counts[4] or 0) + answer.tokens) end
if answer.learned and counts[5] ~= answer.learned then
  keep('account', answer.learned)
  audit('audit', 'account_learned', 'key', answer.key, answer.learned, 0, by)
end
redis.call('HSET', key, unpack(kept))
if answer.real and (noted or outcome ~= 'ok') and redis.call('ZADD', root .. ':models', now, answer.model) > 0 then
  redis.call('ZREMRANGEBYRANK', root .. ':models', 0, -MODELS_KEPT - 1)
end

local function reply(until_ms, changed)
  return {lease and 'ok' or 'late', until_ms, changed and 1 or 0, passing and 1 or 0, unpack(learned)}
end
if outcome == 'unused' then return reply(0, false) end

-- Counts a fault of a host or model. Returns until when it rests, or 0. Calls that fail together count once a second,
-- so that one hiccup does not cause a long rest.
local function count_fault(shared)
  local fault = redis.call('HMGET', shared, 'faults', 'fault_ms', 'until_ms')
  redis.call('HDEL', shared, 'probe_ms')
  if now - tonumber(fault[2] or 0) < FAULTS_APART_MS or tonumber(fault[3] or 0) > now then return 0 end
  local faults, until_ms = tonumber(fault[1] or 0) + 1, 0
  redis.call('HSET', shared, 'faults', faults, 'fault_ms', now)
  redis.call('PEXPIRE', shared, STATE_TTL_MS)
  if faults >= BREAKER_FAULTS then
    until_ms = now + min(1000 * 2 ^ (faults - BREAKER_FAULTS), LONGEST_REST_MS)
    redis.call('HSET', shared, 'until_ms', until_ms, 'since_ms', now, 'reason', reason)
  end
  return until_ms
end

-- A host or model answered. Its record is deleted once it says nothing, since every acquire looks at those that exist.
local function recover(shared)
  redis.call('HDEL', shared, 'faults', 'probe_ms', 'probe_by')
  local left = redis.call('HMGET', shared, 'state', 'until_ms', 'fault_ms')
  local last_ms = max(tonumber(left[2] or 0), tonumber(left[3] or 0) + FAULTS_APART_MS)
  if not left[1] and last_ms <= now then redis.call('DEL', shared) end
end

if answer.answered then  -- by the host, and so by the model
  if redis.call('EXISTS', record_of.host, record_of.model) > 0 then
    recover(record_of.host)
    recover(record_of.model)
  end
else
  -- A call that fails while no other passes is no key's fault either.
  local shared = not effect and scope
    or outcome == 'fault' and not passing and (answer.model ~= '' and 'model' or 'host')
  local rests_ms = (shared == 'host' or shared == 'model') and count_fault(record_of[shared]) or 0
  if rests_ms > 0 then
    audit('audit', 'cooled', shared, not effect and answer.name or answer.model, reason, rests_ms, by)
    if not effect then return reply(rests_ms, true) end
  end
end
if not effect then return reply(0, false) end

-- The scope rests; a rest only grows. A key's resource and a model that an account lacks are marks: fields of a hash.
local blamed, mark, before = record_of[scope], scope == 'key_resource' and 't:' .. answer.resource, nil
if effect == 'unfit' then
  blamed, mark = root .. ':unfit', pair_name
  if redis.call('HLEN', blamed) >= UNFIT_KEPT then redis.call('DEL', blamed) end
end
if mark then before = blocked_by_mark(redis.call('HGET', blamed, mark))
else before = blocked(redis.call('HMGET', blamed, 'state', 'until_ms')) end
local was_ms = before and before.until_ms or 0
local until_ms = (effect == 'disable' or was_ms == NEVER) and NEVER or max(now + answer.rest_ms, was_ms)
local state, shown_ms = until_ms == NEVER and 'disabled' or nil, until_ms == NEVER and -1 or until_ms
if scope == 'account_model' and not mark then
  local from_tokens = answer.sized and lease and lease.cost.tokens or 0
  if before then from_tokens = min(from_tokens, tonumber(redis.call('HGET', blamed, 'from_tokens') or 0)) end
  redis.call('HSET', blamed, 'from_tokens', from_tokens)
end
if was_ms ~= until_ms then
  local block = {until_ms = shown_ms, since_ms = now, reason = reason, by = by, state = state}
  if mark then redis.call('HSET', blamed, mark, cmsgpack.pack(block))
  else for field, value in pairs(block) do redis.call('HSET', blamed, field, value) end end
  local event = ({disable = 'disabled', cool = 'cooled', unfit = 'unfit'})[effect]
  if effect ~= 'unfit' or not before then audit('audit', event, scope, answer.name, reason, shown_ms, by) end
end
if state then redis.call('PERSIST', blamed)
elseif STAYS_MS[scope] then redis.call('PEXPIRE', blamed, until_ms - now + STAYS_MS[scope]) end
return reply(shown_ms, not before)
