-- settle: end a lease with what the answer meant. An expired lease changes no bucket, but what the answer taught holds.
--
-- KEYS  1 leases  2 leased  3 inflight  4 audit  5 pin  6 key record  7 account record  8 account × model record
--       9 the blamed scope's record (one of key, account, account × model, model, host)  10 host  11 model  12 models
-- ARGV  1 now_ms or ''  2 lease id  3 outcome: ok | refused | fault | rejected  4 counted (1: the provider counted it)
--       5 tokens used or ''  6 effect: none | cool | disable  7 scope name  8 scope's own name  9 cooldown ms
--       10 reason  11 by (task id)  12 pin: none | keep | drop | done  13 topic or ''  14 account learned or ''  15 key id
--       16 calls on their way while limits are unknown, at the start  17 model to remember or ''  18 account  19 pin window ms
--       20 emails carried or ''
--       then observed limits: dimension, limit, window ms, remaining or '' …
-- Returns {'ok' | 'late', until_ms (-1 disabled, 0 free), changed (1: newly blocked), learned, …}

local MODELS_KEPT = 64

local now = clock(ARGV[1])
local lease_id, outcome, counted, tokens = ARGV[2], ARGV[3], ARGV[4] == '1', tonumber(ARGV[5])
local effect, scope, name, reason, by, topic = ARGV[6], ARGV[7], ARGV[8], ARGV[10], ARGV[11], ARGV[13]
local record = end_lease(KEYS[1], KEYS[2], KEYS[3], lease_id)

local state = redis.call('HMGET', KEYS[8], 'buckets', 'window', 'flying')
local buckets = buckets_of(state[1])
if record then correct(buckets, record, tokens, tonumber(ARGV[20]), counted, now) end
local learned = learn_limits(buckets, ARGV, 21, now, outcome == 'refused' and record)
if outcome == 'ok' then speed_up(buckets) end
if next(buckets) then redis.call('HSET', KEYS[8], 'buckets', cmsgpack.pack(buckets)) end
local window = tonumber(state[2]) or tonumber(ARGV[16])
if record and state[3] then land(KEYS[8], buckets_of(state[3]), record.start_ms) end
if outcome == 'ok' then window = wider(window) end
-- A refusal that names a limit is answered by its bucket; one that says nothing closes the window.
if outcome == 'refused' and #ARGV < 21 then window = math.max(1, math.floor(window / 2)) end
redis.call('HSET', KEYS[8], 'window', window)
redis.call('PEXPIRE', KEYS[8], STATE_TTL_MS)
for _, what in ipairs(learned) do
  audit(KEYS[4], now, 'limit_learned', 'account_model', KEYS[8]:match('account_model:(.*)'), what, 0, by)
end

redis.call('HINCRBY', KEYS[6], 'calls', 1)
redis.call('HINCRBY', KEYS[6], outcome, 1)
if tokens then redis.call('HINCRBY', KEYS[6], 'tokens', tokens) end
if ARGV[14] ~= '' and redis.call('HGET', KEYS[6], 'account') ~= ARGV[14] then
  redis.call('HSET', KEYS[6], 'account', ARGV[14])
  audit(KEYS[4], now, 'account_learned', 'key', ARGV[15], ARGV[14], 0, by)
end

if redis.call('HGET', KEYS[5], 'lease') == lease_id and ARGV[12] == 'drop' then redis.call('DEL', KEYS[5]) end
if (ARGV[12] == 'keep' or ARGV[12] == 'done') and redis.call('EXISTS', KEYS[5]) == 0 then
  -- Redis has lost the pin since (a crash costs its last second): without it another account might send again.
  redis.call('HSET', KEYS[5], 'account', ARGV[18], 'since_ms', now)
  redis.call('PEXPIRE', KEYS[5], ARGV[19] + PIN_SLACK_MS)
end
if ARGV[12] == 'done' then redis.call('HSET', KEYS[5], 'done', 1) end
if ARGV[17] ~= '' then
  redis.call('ZADD', KEYS[12], now, ARGV[17])
  redis.call('ZREMRANGEBYRANK', KEYS[12], 0, -MODELS_KEPT - 1)
end

if outcome ~= 'fault' then  -- the host answered, and so did the model
  for place = 10, 11 do redis.call('HDEL', KEYS[place], 'faults', 'probe_ms') end
elseif effect == 'none' and (scope == 'host' or scope == 'model') then
  local rests_ms = count_fault(KEYS[9], reason, now)
  if rests_ms > 0 then
    audit(KEYS[4], now, 'cooled', scope, name, reason, rests_ms, by)
    return {record and 'ok' or 'late', rests_ms, 1, unpack(learned)}
  end
end
if effect == 'none' then return {record and 'ok' or 'late', 0, 0, unpack(learned)} end
local field = scope == 'key_topic' and 't:' .. topic or nil
local before = field and buckets_of(redis.call('HGET', KEYS[9], field))
  or {state = redis.call('HGET', KEYS[9], 'state') or nil, until_ms = redis.call('HGET', KEYS[9], 'until_ms')}
local was = blocked(before.state, before.until_ms, '', now)
local until_ms = effect == 'disable' and -1 or math.max(now + tonumber(ARGV[9]), tonumber(before.until_ms) or 0)
if was < 0 then until_ms = -1 end
local after = {'until_ms', until_ms, 'since_ms', now, 'reason', reason, 'by', by}
if until_ms < 0 then after[#after + 1], after[#after + 2] = 'state', 'disabled' end
if was ~= until_ms then
  if field then
    redis.call('HSET', KEYS[9], field, cmsgpack.pack({until_ms = until_ms, since_ms = now, reason = reason,
      state = until_ms < 0 and 'disabled' or nil}))
  else
    redis.call('HSET', KEYS[9], unpack(after))
  end
  audit(KEYS[4], now, effect == 'disable' and 'disabled' or 'cooled', scope, name, reason, until_ms, by)
end
if until_ms < 0 then redis.call('PERSIST', KEYS[9])
elseif scope ~= 'key' and scope ~= 'key_topic' then
  redis.call('PEXPIRE', KEYS[9], math.max(STATE_TTL_MS, until_ms - now))
end
return {record and 'ok' or 'late', until_ms, was == 0 and 1 or 0, unpack(learned)}
