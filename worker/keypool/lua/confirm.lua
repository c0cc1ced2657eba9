-- confirm: may a lease that has waited for its instant still be used? If not, it ends here and its capacity goes back.
-- Not so where the key, or what covers it, rests by now, nor where the key's account was learned meanwhile.
-- Where others left later than they were to, and the provider counts in windows, it waits a little longer; so it does
-- where a refusal showed that the provider has less than was thought, and where one job tries alone whether a host or
-- model works again.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id  3 key id  4 account  5 model or ''  6 topic
-- Returns how long it still has to wait, in ms (0: it goes now) · -1 it has ended: expired, unknown, or blocked

local root, lease_id, topic = KEYS[1], ARGV[2], 't:' .. ARGV[6]
local now = clock(ARGV[1], root .. ':inflight')
local record = redis.call('HGET', root .. ':leased', lease_id)
if not record then return -1 end
record = cmsgpack.unpack(record)
local pair = root .. ':account_model:' .. ARGV[4] .. ':' .. ARGV[5]
local host, model = root .. ':host', root .. ':model:' .. ARGV[5]
local buckets = buckets_of(redis.call('HGET', pair, 'limits'))
local unfit = unfit_for(root, ARGV[4] .. ':' .. ARGV[5], now)
for _, scope in ipairs({host, model, root .. ':key:' .. ARGV[3], root .. ':account:' .. ARGV[4], pair}) do
  local rests = redis.call('HMGET', scope, 'state', 'until_ms', topic, 'account', 'from_tokens')
  local until_ms = blocked_from(rests[5], record.cost.tokens, blocked(rests[1], rests[2], '', now))
  if until_ms == 0 then until_ms = blocked_topic(rests[3], now) end
  -- Where the key turned out to be another account's, nothing was reserved there.
  if unfit or until_ms ~= 0 or rests[4] and rests[4] ~= ARGV[4] then
    end_lease(root, lease_id)
    give_back(buckets, record, now)
    save_buckets(pair, buckets)
    return -1
  end
end
local host_ms, _, probes_host = breaker(host, lease_id, now)
local model_ms, _, probes_model = breaker(model, lease_id, now)
if max(host_ms, model_ms) > now then return max(host_ms, model_ms) - now end

if record.left then  -- it was noted as gone when it was taken, and is still here
  stay(buckets, record.start_ms)
  record.left, record.changed = nil, true
end
local later_ms = 0
for dimension, bucket in pairs(taken_from(record, buckets)) do
  local debts = record.debts or {}
  later_ms = max(later_ms, ((bucket.debt or 0) - (debts[dimension] or 0)) / rate_of(bucket))
  debts[dimension], record.debts = bucket.debt, debts
end
later_ms = ceil(later_ms)
if later_ms > 0 or record.changed then
  record.start_ms, record.changed = record.start_ms + later_ms, nil
  redis.call('HSET', root .. ':leased', lease_id, cmsgpack.pack(record))
end
if later_ms > 0 then return later_ms end
local opens_ms, windowed = 0, false
for _, bucket in pairs(buckets) do
  if bucket.log then opens_ms, windowed = max(opens_ms, window_opens_ms(bucket, bucket.left)), true end
end
if opens_ms <= now then depart(buckets, now) end
if windowed then save_buckets(pair, buckets) end
if opens_ms > now then return opens_ms - now end
if probes_host then try_alone(host, lease_id, now) end
if probes_model then try_alone(model, lease_id, now) end
return 0
