-- requires: prelude, buckets, reservations, learn
-- settle: end a lease with what the answer meant. An expired lease changes no bucket, but what the answer taught holds.
--
-- ARGV  2 lease id  3 what the answer means, as JSON: key (its id), account, model, resource, by (task id)
--       outcome: ok | refused | fault | rejected | unused (no call was made); answered: the provider did its work;
--       counted: the provider counted it; tokens used, input_tokens and output_tokens of them, emails carried,
--       stated_ms (the wait that the provider told), learned (the account that it named), each where known
--       turned_down: the account refused the request for what it is, for a reason that is not known to hold again
--       effect: none | cool | disable | unfit, on scope (its own name is name) for rest_ms, because of reason
--       sized: the rest of an account_model is told for a call of this size, smaller ones may pass
--       uncapped: the answer was too long for the account's limit, though less than that was reserved
--       real: the provider knows the model
--       limits observed, each [dimension, limit, window ms, remaining where known]
--       quotas of which is told what is used, each [dimension, used, window ms, 1 if the call was refused for it, or 0]
-- Returns 'ok' | 'late', until_ms (-1 disabled, 0 free), changed (1: newly blocked), passing (1: another call of this
--         model was accepted after this one began, so a failure is this call's own), learned, …

local FAULTS_APART_MS = 1000
local LONGEST_REST_MS = 10000  -- of a host or model, so that it is used again soon after it works again
local MODELS_KEPT = 64
local UNFIT_KEPT = 1000  -- jobs may name models that nobody has, without end
local OK_NOTED_MS = 250  -- what is known of successes is as old as this at most
local STAYS_NOTED_MS = 3600000  -- so often it is put off when a record goes that is not used any more
-- So long after a rest its record stays: that of an account not for long, since each acquire looks at those there are.
local STAYS_MS = {account = 600000, account_model = STATE_TTL_MS, model = STATE_TTL_MS, host = STATE_TTL_MS}

local said = cjson.decode(ARGV[3])
local ok_ms = read_clock('ok_ms:' .. said.model)
local outcome, effect, scope, reason, by = said.outcome, said.effect, said.scope, said.reason, said.by
local pair_name, key = said.account .. ':' .. said.model, root .. ':key:' .. said.key
local pair = root .. ':account_model:' .. pair_name
local record_of = {key = key, key_resource = key, account = root .. ':account:' .. said.account, account_model = pair,
  model = root .. ':model:' .. said.model, host = root .. ':host'}
local lease = end_lease(ARGV[2])

local record = redis.call('HMGET', pair, 'buckets', 'limits', 'turned_ms', 'stays_ms')
local buckets, known, learned = read_buckets(record[1], record[2]), {}, {}
for dimension, bucket in pairs(buckets) do known[dimension] = bucket end
-- A call that was not counted is not in what was told meanwhile of limits that were not known when it was reserved.
-- What the provider says is left was counted while a counted call's reserve was still taken out; so what the call did
-- not use comes back on top of that.
if lease and not said.counted then
  for dimension in pairs(lease.took) do
    if buckets[dimension] then correct(buckets[dimension], dimension, lease, said) end
  end
end
learn_limits(buckets, said.limits, outcome == 'refused' and lease, said.stated_ms, learned)
learn_quotas(buckets, said.quotas, lease, outcome, learned)
if lease and said.counted then
  for dimension, bucket in pairs(known) do correct(bucket, dimension, lease, said) end
end
if lease and lease.tried then judge_try(buckets, lease, outcome, learned) end
if outcome == 'ok' then speed_up(buckets) end
-- A refusal that names a limit is answered by its bucket; one that says nothing closes the ramp.
local ramp = buckets.ramp
if ramp and outcome == 'refused' and #said.limits == 0 then ramp.limit = max(1, floor(ramp.limit / 2)) end
if said.uncapped and buckets.otpm then buckets.otpm.capped = true end
for _, what in ipairs(learned) do audit('audit', 'limit_learned', 'account_model', pair_name, what, 0, by) end

save_buckets(pair, buckets)
if said.turned_down then redis.call('HSET', pair, 'turned_ms', now)
elseif record[3] and outcome == 'ok' then redis.call('HDEL', pair, 'turned_ms') end
if now - tonumber(record[4] or 0) > STAYS_NOTED_MS then
  redis.call('HSET', pair, 'stays_ms', now)
  redis.call('PEXPIRE', pair, STATE_TTL_MS)
end

-- Who waits was told when to ask by what was known then.
if outcome == 'unused' or lease and lease.tried and outcome == 'ok' then
  redis.call('PUBLISH', root .. ':wake', 'room')
end
local noted = outcome == 'ok' and now - ok_ms >= OK_NOTED_MS
local passing = outcome == 'fault' and lease and ok_ms >= lease.start_ms
if noted then redis.call('HSET', root .. ':inflight', 'ok_ms:' .. said.model, now) end
local counts = redis.call('HMGET', key, 'in_flight', 'calls', outcome, 'tokens', 'account')
local kept = {'in_flight', max(0, (counts[1] or 0) - (lease and 1 or 0))}
local function keep(field, value) kept[#kept + 1], kept[#kept + 2] = field, value end
if outcome ~= 'unused' then
  keep('calls', (counts[2] or 0) + 1)
  keep(outcome, (counts[3] or 0) + 1)
end
if outcome == 'ok' then keep('ok_ms', now) end
if said.tokens then keep('tokens', (counts[4] or 0) + said.tokens) end
if said.learned and counts[5] ~= said.learned then
  keep('account', said.learned)
  audit('audit', 'account_learned', 'key', said.key, said.learned, 0, by)
end
redis.call('HSET', key, unpack(kept))
if said.real and (noted or outcome ~= 'ok') and redis.call('ZADD', root .. ':models', now, said.model) > 0 then
  redis.call('ZREMRANGEBYRANK', root .. ':models', 0, -MODELS_KEPT - 1)
end

local function answer(until_ms, changed)
  return {lease and 'ok' or 'late', until_ms, changed and 1 or 0, passing and 1 or 0, unpack(learned)}
end
if outcome == 'unused' then return answer(0, false) end

-- Counts a fault of a host or model that no key is to blame for. Returns until when it rests, 0 where it does not.
-- A crowd of calls that fail together counts once a second, so that one hiccup does not rest for long.
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

-- A host or model answered. A record that says nothing any more goes, since every acquire looks at those there are.
local function recover(shared)
  redis.call('HDEL', shared, 'faults', 'probe_ms', 'probe_by')
  local left = redis.call('HMGET', shared, 'state', 'until_ms', 'fault_ms')
  local last_ms = max(tonumber(left[2] or 0), tonumber(left[3] or 0) + FAULTS_APART_MS)
  if not left[1] and last_ms <= now then redis.call('DEL', shared) end
end

if said.answered then  -- by the host, and so by the model
  if redis.call('EXISTS', record_of.host, record_of.model) > 0 then
    recover(record_of.host)
    recover(record_of.model)
  end
else
  -- What fails while nothing passes is no key's fault either.
  local shared = effect == 'none' and scope
    or outcome == 'fault' and not passing and (said.model ~= '' and 'model' or 'host')
  local rests_ms = (shared == 'host' or shared == 'model') and count_fault(record_of[shared]) or 0
  if rests_ms > 0 then
    audit('audit', 'cooled', shared, effect == 'none' and said.name or said.model, reason, rests_ms, by)
    if effect == 'none' then return answer(rests_ms, true) end
  end
end
if effect == 'none' then return answer(0, false) end

-- What is blamed rests, and a rest only grows. A key's resource, and the model that an account does not have, are marks
-- in the hash of others.
local blamed, mark, before = record_of[scope], scope == 'key_resource' and 't:' .. said.resource, nil
if effect == 'unfit' then
  blamed, mark = root .. ':unfit', pair_name
  if redis.call('HLEN', blamed) >= UNFIT_KEPT then redis.call('DEL', blamed) end
end
if mark then before = blocked_by_mark(redis.call('HGET', blamed, mark))
else before = blocked(redis.call('HMGET', blamed, 'state', 'until_ms')) end
local was_ms = before and before.until_ms or 0
local until_ms = (effect == 'disable' or was_ms == NEVER) and NEVER or max(now + said.rest_ms, was_ms)
local state, shown_ms = until_ms == NEVER and 'disabled' or nil, until_ms == NEVER and -1 or until_ms
if scope == 'account_model' and not mark then
  local from_tokens = said.sized and lease and lease.cost.tokens or 0
  if before then from_tokens = min(from_tokens, tonumber(redis.call('HGET', blamed, 'from_tokens') or 0)) end
  redis.call('HSET', blamed, 'from_tokens', from_tokens)
end
if was_ms ~= until_ms then
  local block = {until_ms = shown_ms, since_ms = now, reason = reason, by = by, state = state}
  if mark then redis.call('HSET', blamed, mark, cmsgpack.pack(block))
  else for field, value in pairs(block) do redis.call('HSET', blamed, field, value) end end
  local event = ({disable = 'disabled', cool = 'cooled', unfit = 'unfit'})[effect]
  if effect ~= 'unfit' or not before then audit('audit', event, scope, said.name, reason, shown_ms, by) end
end
if state then redis.call('PERSIST', blamed)
elseif STAYS_MS[scope] then redis.call('PEXPIRE', blamed, until_ms - now + STAYS_MS[scope]) end
return answer(shown_ms, not before)
