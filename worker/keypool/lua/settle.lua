-- settle: end a lease with what the answer meant. An expired lease changes no bucket, but what the answer taught holds.
--
-- KEYS  1 leases  2 leased  3 inflight  4 audit  5 key record  6 account record  7 account × model record
--       8 the blamed scope's record (one of key, account, account × model, model, host)  9 host  10 model  11 models
-- ARGV  1 now_ms or ''  2 lease id  3 outcome: ok | refused | fault | rejected  4 counted (1: the provider counted it)
--       5 tokens used or ''  6 effect: none | cool | disable  7 scope name  8 scope's own name  9 cooldown ms
--       10 reason  11 by (task id)  12 topic or ''  13 account learned or ''  14 key id
--       15 calls on their way while limits are unknown, at the start  16 model to remember or ''  17 emails carried or ''
--       18 ms that the provider told to wait or ''
--       then observed limits: dimension, limit, window ms, remaining or '' …
-- Returns {'ok' | 'late', until_ms (-1 disabled, 0 free), changed (1: newly blocked), learned, …}

local MODELS_KEPT = 64

local now = clock(ARGV[1])
local lease_id, outcome, counted, tokens = ARGV[2], ARGV[3], ARGV[4] == '1', tonumber(ARGV[5])
local effect, scope, name, reason, by, topic = ARGV[6], ARGV[7], ARGV[8], ARGV[10], ARGV[11], ARGV[12]
local record = end_lease(KEYS[1], KEYS[2], KEYS[3], lease_id)

local state = redis.call('HMGET', KEYS[7], 'buckets', 'window', 'flying')
local buckets = buckets_of(state[1])
if record then correct(buckets, record, tokens, tonumber(ARGV[17]), counted, now) end
local learned = learn_limits(buckets, ARGV, 19, now, outcome == 'refused' and record, tonumber(ARGV[18]))
if outcome == 'ok' then speed_up(buckets) end
if next(buckets) then redis.call('HSET', KEYS[7], 'buckets', cmsgpack.pack(buckets)) end
local window = tonumber(state[2]) or tonumber(ARGV[15])
if record and state[3] then land(KEYS[7], buckets_of(state[3]), record.start_ms) end
if outcome == 'ok' then window = wider(window) end
-- A refusal that names a limit is answered by its bucket; one that says nothing closes the window.
if outcome == 'refused' and #ARGV < 19 then window = math.max(1, math.floor(window / 2)) end
redis.call('HSET', KEYS[7], 'window', window)
redis.call('PEXPIRE', KEYS[7], STATE_TTL_MS)
for _, what in ipairs(learned) do
  audit(KEYS[4], now, 'limit_learned', 'account_model', KEYS[7]:match('account_model:(.*)'), what, 0, by)
end

redis.call('HINCRBY', KEYS[5], 'calls', 1)
redis.call('HINCRBY', KEYS[5], outcome, 1)
if outcome == 'ok' then redis.call('HSET', KEYS[5], 'ok_ms', now) end
if tokens then redis.call('HINCRBY', KEYS[5], 'tokens', tokens) end
if ARGV[13] ~= '' and redis.call('HGET', KEYS[5], 'account') ~= ARGV[13] then
  redis.call('HSET', KEYS[5], 'account', ARGV[13])
  audit(KEYS[4], now, 'account_learned', 'key', ARGV[14], ARGV[13], 0, by)
end

if ARGV[16] ~= '' then
  redis.call('ZADD', KEYS[11], now, ARGV[16])
  redis.call('ZREMRANGEBYRANK', KEYS[11], 0, -MODELS_KEPT - 1)
end

if outcome ~= 'fault' then  -- the host answered, and so did the model
  for place = 9, 10 do redis.call('HDEL', KEYS[place], 'faults', 'probe_ms') end
elseif effect == 'none' and (scope == 'host' or scope == 'model') then
  local rests_ms = count_fault(KEYS[8], reason, now)
  if rests_ms > 0 then
    audit(KEYS[4], now, 'cooled', scope, name, reason, rests_ms, by)
    return {record and 'ok' or 'late', rests_ms, 1, unpack(learned)}
  end
end
if effect == 'none' then return {record and 'ok' or 'late', 0, 0, unpack(learned)} end
local field = scope == 'key_topic' and 't:' .. topic or nil
local before = field and buckets_of(redis.call('HGET', KEYS[8], field))
  or {state = redis.call('HGET', KEYS[8], 'state') or nil, until_ms = redis.call('HGET', KEYS[8], 'until_ms')}
local was = blocked(before.state, before.until_ms, '', now)
local until_ms = effect == 'disable' and -1 or math.max(now + tonumber(ARGV[9]), tonumber(before.until_ms) or 0)
if was < 0 then until_ms = -1 end
local after = {'until_ms', until_ms, 'since_ms', now, 'reason', reason, 'by', by}
if until_ms < 0 then after[#after + 1], after[#after + 2] = 'state', 'disabled' end
if was ~= until_ms then
  if field then
    redis.call('HSET', KEYS[8], field, cmsgpack.pack({until_ms = until_ms, since_ms = now, reason = reason,
      state = until_ms < 0 and 'disabled' or nil}))
  else
    redis.call('HSET', KEYS[8], unpack(after))
  end
  audit(KEYS[4], now, effect == 'disable' and 'disabled' or 'cooled', scope, name, reason, until_ms, by)
end
if until_ms < 0 then redis.call('PERSIST', KEYS[8])
elseif scope ~= 'key' and scope ~= 'key_topic' then
  redis.call('PEXPIRE', KEYS[8], math.max(STATE_TTL_MS, until_ms - now))
end
return {record and 'ok' or 'late', until_ms, was == 0 and 1 or 0, unpack(learned)}
