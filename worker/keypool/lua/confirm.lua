-- confirm: may a lease that has waited for its instant still be used? If not, it ends here and its capacity goes back.
-- Where others left later than they were to, and the provider counts in windows, it waits a little longer.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id  3 key id  4 account  5 model or ''  6 topic
-- Returns how long it still has to wait, in ms (0: it goes now) · -1 it has ended: expired, unknown, or blocked

local now, root, lease_id, topic = clock(ARGV[1]), KEYS[1], ARGV[2], 't:' .. ARGV[6]
if redis.call('HEXISTS', root .. ':leased', lease_id) == 0 then return -1 end
local pair = root .. ':account_model:' .. ARGV[4] .. ':' .. ARGV[5]
local buckets = buckets_of(redis.call('HGET', pair, 'limits'))
local scopes = {root .. ':host', root .. ':model:' .. ARGV[5], root .. ':key:' .. ARGV[3], root .. ':account:' .. ARGV[4], pair}
for _, scope in ipairs(scopes) do
  local record = redis.call('HMGET', scope, 'state', 'until_ms', topic)
  local until_ms = blocked(record[1], record[2], '', now)
  if until_ms == 0 then until_ms = blocked_topic(record[3], now) end
  if until_ms ~= 0 then
    local lease = end_lease(root, lease_id)
    local cost = {requests = -lease.cost.requests, tokens = -lease.cost.tokens, emails = -lease.cost.emails}
    charge_all(buckets, cost, lease.start_ms, now)
    save_buckets(pair, buckets)
    return -1
  end
end
local opens_ms, windowed = 0, false
for _, bucket in pairs(buckets) do
  if bucket.log then opens_ms, windowed = max(opens_ms, window_opens_ms(bucket, bucket.left)), true end
end
if opens_ms > now then return opens_ms - now end
if windowed then
  depart(buckets, now)
  save_buckets(pair, buckets)
end
return 0
