-- reset: clear cooldowns and disabled marks of the records given, and say so to whoever waits. What a provider's word had
-- taken out of a bucket for the time of a rest comes back with it; quotas that were learned are learned anew.
--
-- KEYS  1 audit (stream)  2 … the records of keys, accounts, account × models, models, host
-- ARGV  1 now_ms or ''  2 by  3 what (service or key id)  4 channel of the wake-up
-- Returns how many records were blocked.

local now, cleared = clock(ARGV[1]), 0
for place = 2, #KEYS do
  local record = redis.call('HMGET', KEYS[place], 'state', 'until_ms', 'reason')
  local hit = blocked(record[1], record[2], record[3], now) ~= 0
  for _, field in ipairs(redis.call('HKEYS', KEYS[place])) do
    if field:sub(1, 2) == 't:' then
      hit = blocked_topic(redis.call('HGET', KEYS[place], field), now) ~= 0 or hit
      redis.call('HDEL', KEYS[place], field)
    end
  end
  local buckets, changed = buckets_of(redis.call('HGET', KEYS[place], 'limits')), false
  for dimension, bucket in pairs(buckets) do
    changed = let_go(bucket, now) or bucket.learned_ms or changed
    if bucket.learned_ms then buckets[dimension] = nil end
  end
  if changed then save_buckets(KEYS[place], buckets) end
  redis.call('HDEL', KEYS[place], 'state', 'until_ms', 'since_ms', 'reason', 'by', 'from_tokens', 'faults', 'probe_ms', 'probe_by')
  if hit then cleared = cleared + 1 end
end
audit(KEYS[1], now, 'reset', 'service', ARGV[3], cleared .. ' cleared', 0, ARGV[2])
redis.call('PUBLISH', ARGV[4], ARGV[3])
return cleared
