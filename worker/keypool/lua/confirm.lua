-- confirm: may a lease that has waited for its instant still be used? If not, it ends here and its capacity goes back.
--
-- KEYS  1 leases  2 leased  3 inflight  4 host  5 model  6 key record  7 account record  8 account × model record
-- ARGV  1 now_ms or ''  2 lease id  3 topic
-- Returns {'ok'} · {'lost'} (expired, or unknown) · {'blocked', reason}

local now = clock(ARGV[1])
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return {'lost'} end
for place = 4, 8 do
  local record = redis.call('HMGET', KEYS[place], 'state', 'until_ms', 'reason', 't:' .. ARGV[3])
  local until_ms, reason = blocked(record[1], record[2], record[3], now)
  if until_ms == 0 then until_ms, reason = blocked_topic(record[4], now) end
  if until_ms ~= 0 then
    local lease = end_lease(KEYS[1], KEYS[2], KEYS[3], ARGV[2])
    local buckets = buckets_of(redis.call('HGET', KEYS[8], 'buckets'))
    local cost = {requests = -lease.cost.requests, tokens = -lease.cost.tokens, emails = -lease.cost.emails}
    charge_all(KEYS[8], buckets, cost, lease.start_ms, now)
    return {'blocked', reason}
  end
end
return {'ok'}
