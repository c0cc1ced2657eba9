-- settle: end a lease with what the answer meant. An expired lease changes no bucket, but what the answer taught holds.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id
--       3 what the answer means, as JSON: key (its id), account, model, topic, by (task id)
--         outcome: ok | refused | fault | rejected | unused (no call was made); answered: the provider did its work;
--         counted: the provider counted it; tokens used, input_tokens and output_tokens of them, emails carried,
--         stated_ms (the wait that the provider told), learned (the account that it named), each where known
--         turned_down: the account refused the request for what it is, for a reason that is not known to hold again
--         effect: none | cool | disable | unfit, on scope (its own name is name) for rest_ms, because of reason; sized:
--         the rest of an account_model is told for a call of this size, smaller ones may pass
--         uncapped: the answer was too long for the account's limit, though less than that was reserved
--         opening: calls on their way while limits are unknown, at the start; real: the provider knows the model
--         limits observed, each [dimension, limit, window ms, remaining where known]
--         quotas of which is told what is used, each [dimension, used, window ms, 1 if the call was refused for it,
--         else 0]
-- Returns 'ok' | 'late', until_ms (-1 disabled, 0 free), changed (1: newly blocked), passing (1: another call of this
-- model
--         was accepted after this one began, so a failure is this call's own), learned, …

local MODELS_KEPT = 64
local UNFIT_KEPT = 1000  -- jobs may name models that nobody has, without end
local OK_NOTED_MS = 250       -- what is known of successes is as old as this at most
local RECORD_STAYS_MS = 600000  -- so long after an account's rest its record stays; an acquire looks at each there is

local root, said = KEYS[1], cjson.decode(ARGV[3])
local ok_field = 'ok_ms:' .. said.model
local now, ok_ms = clock(ARGV[1], root .. ':inflight', ok_field)
local outcome, tokens, effect, scope, name = said.outcome, said.tokens, said.effect, said.scope, said.name
local reason, by, topic = said.reason, said.by, said.topic
local trail, key = root .. ':audit', root .. ':key:' .. said.key
local pair_name = said.account .. ':' .. said.model
local pair, host, model = root .. ':account_model:' .. pair_name, root .. ':host', root .. ':model:' .. said.model
local blamed = ({key = key, key_topic = key, account = root .. ':account:' .. said.account, account_model = pair,
  model = model, host = host})[scope]
local record = end_lease(root, ARGV[2])

local state = redis.call('HMGET', pair, 'limits', 'window', 'flying', 'turned_ms')
local buckets, window, kept = buckets_of(state[1]), tonumber(state[2]) or said.opening, {}
local flying = unpacked(state[3])
-- What the provider says is left was counted while this call's reserve was still taken out, as far as it counted the
-- call at all. So what the call did not use comes back on top of it, into the buckets that it was taken from.
local reserved = {}
for dimension, bucket in pairs(buckets) do reserved[dimension] = bucket end
-- A call that was not counted is not in what was told meanwhile of limits that were not known when it was reserved.
if record and not said.counted then
  correct(taken_from(record, buckets), record, said, now)
end
local learned = learn_limits(buckets, said.limits, flying, now, outcome == 'refused' and record, said.stated_ms)
for _, what in ipairs(learn_quotas(buckets, said.quotas, record, outcome, now)) do learned[#learned + 1] = what end
if record and said.counted then correct(reserved, record, said, now) end
if outcome == 'ok' then speed_up(buckets) end
if said.uncapped and buckets.otpm then buckets.otpm.capped = true end
local raised = record and record.tried and judge_try(buckets, record, outcome, now)
if raised then learned[#learned + 1] = raised end
if next(buckets) then kept = {'limits', pack_buckets(buckets)}
elseif state[1] then redis.call('HDEL', pair, 'limits') end
if record and state[3] then
  land(flying, record.start_ms)
  kept[#kept + 1], kept[#kept + 2] = 'flying', cmsgpack.pack(flying)
end
if outcome == 'ok' then window = wider(window) end
-- A refusal that names a limit is answered by its bucket; one that says nothing closes the window.
if outcome == 'refused' and #said.limits == 0 then window = max(1, floor(window / 2)) end
if said.turned_down then kept[#kept + 1], kept[#kept + 2] = 'turned_ms', now end
redis.call('HSET', pair, 'window', window, unpack(kept))
if state[4] and outcome == 'ok' then redis.call('HDEL', pair, 'turned_ms') end
redis.call('PEXPIRE', pair, STATE_TTL_MS)
for _, what in ipairs(learned) do audit(trail, now, 'limit_learned', 'account_model', pair_name, what, 0, by) end

-- Who waits was told when to ask by what was known then.
if outcome == 'unused' or record and record.tried and outcome == 'ok' then
  redis.call('PUBLISH', root .. ':wake', 'room')
end
local found = record and 'ok' or 'late'
if outcome == 'unused' then return {found, 0, 0, 0} end
local passing = 0
if outcome == 'ok' and now - ok_ms >= OK_NOTED_MS then redis.call('HSET', root .. ':inflight', ok_field, now)
elseif outcome == 'fault' and record and ok_ms >= record.start_ms then passing = 1 end
local counts = redis.call('HMGET', key, 'calls', outcome, 'tokens', 'account')
local grown = {'calls', (counts[1] or 0) + 1, outcome, (counts[2] or 0) + 1}
if outcome == 'ok' then grown[5], grown[6] = 'ok_ms', now end
if tokens then grown[#grown + 1], grown[#grown + 2] = 'tokens', (counts[3] or 0) + tokens end
if said.learned and counts[4] ~= said.learned then
  grown[#grown + 1], grown[#grown + 2] = 'account', said.learned
  audit(trail, now, 'account_learned', 'key', said.key, said.learned, 0, by)
end
redis.call('HSET', key, unpack(grown))

if said.real and redis.call('ZADD', root .. ':models', now, said.model) > 0 then
  redis.call('ZREMRANGEBYRANK', root .. ':models', 0, -MODELS_KEPT - 1)
end

if said.answered then  -- by the host, and so by the model
  if redis.call('EXISTS', host, model) > 0 then
    recover(host, now)
    recover(model, now)
  end
else
  -- What fails while nothing passes is no key's fault either.
  local shared = effect == 'none' and blamed
    or outcome == 'fault' and passing == 0 and (said.model ~= '' and model or host)
  local what = effect == 'none' and scope or said.model ~= '' and 'model' or 'host'
  local rests_ms = (what == 'host' or what == 'model') and shared and count_fault(shared, reason, now) or 0
  if rests_ms > 0 then
    audit(trail, now, 'cooled', what, effect == 'none' and name or said.model, reason, rests_ms, by)
    if effect == 'none' then return {found, rests_ms, 1, passing, unpack(learned)} end
  end
end
if effect == 'none' then return {found, 0, 0, passing, unpack(learned)} end
if effect == 'unfit' then
  local marks = root .. ':unfit'
  if redis.call('HLEN', marks) >= UNFIT_KEPT then redis.call('DEL', marks) end
  local newly, ends_ms = not unfit_for(root, pair_name, now), now + said.rest_ms
  redis.call('HSET', marks, pair_name, cmsgpack.pack({until_ms = ends_ms, since_ms = now, reason = reason}))
  redis.call('PEXPIRE', marks, max(STATE_TTL_MS, said.rest_ms))
  if newly then audit(trail, now, 'unfit', scope, name, reason, ends_ms, by) end
  return {found, ends_ms, newly and 1 or 0, passing, unpack(learned)}
end
local field = scope == 'key_topic' and 't:' .. topic or nil
local before = field and unpacked(redis.call('HGET', blamed, field))
  or {state = redis.call('HGET', blamed, 'state') or nil, until_ms = redis.call('HGET', blamed, 'until_ms')}
local was = blocked(before.state, before.until_ms, '', now)
local until_ms = effect == 'disable' and -1 or max(now + said.rest_ms, tonumber(before.until_ms) or 0)
if was < 0 then until_ms = -1 end
local after = {'until_ms', until_ms, 'since_ms', now, 'reason', reason, 'by', by}
if until_ms < 0 then after[#after + 1], after[#after + 2] = 'state', 'disabled' end
if scope == 'account_model' then
  local from_tokens = said.sized and record and record.cost.tokens or 0
  if was ~= 0 then from_tokens = min(from_tokens, tonumber(redis.call('HGET', pair, 'from_tokens')) or 0) end
  redis.call('HSET', pair, 'from_tokens', from_tokens)
end
if was ~= until_ms then
  if field then
    redis.call('HSET', blamed, field, cmsgpack.pack({until_ms = until_ms, since_ms = now, reason = reason,
      state = until_ms < 0 and 'disabled' or nil}))
  else
    redis.call('HSET', blamed, unpack(after))
  end
  audit(trail, now, effect == 'disable' and 'disabled' or 'cooled', scope, name, reason, until_ms, by)
end
if until_ms < 0 then redis.call('PERSIST', blamed)
elseif scope == 'account' then redis.call('PEXPIRE', blamed, until_ms - now + RECORD_STAYS_MS)
elseif scope ~= 'key' and scope ~= 'key_topic' then
  redis.call('PEXPIRE', blamed, max(STATE_TTL_MS, until_ms - now))
end
return {found, until_ms, was == 0 and 1 or 0, passing, unpack(learned)}
