-- requires: prelude, buckets, reservations
-- confirm: may a lease that has waited for its instant still be used? Not where the key, or what covers it, rests by
-- now, nor where the key's account was learned meanwhile: then it ends here, and its capacity goes back. It waits a
-- little longer where others left later than they were to and the provider counts in windows, where a refusal showed
-- that the provider has less than was thought, and where one job tries alone whether a host or model works again.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id  3 key id  4 account  5 model or ''  6 resource
-- Returns how long it still has to wait, in ms (0: it goes now) · -1 it has ended: expired, unknown, or blocked

local lease_id, key_id, account, model_name, resource = unpack(ARGV, 2)
read_clock()
local lease = read_lease(lease_id)
if not lease then return -1 end
local pair_name = account .. ':' .. model_name
local pair_key, account_key = root .. ':account_model:' .. pair_name, root .. ':account:' .. account
local host, model, unfit = root .. ':host', root .. ':model:' .. model_name, root .. ':unfit'
local pair = redis.call('HMGET', pair_key, 'state', 'until_ms', 'reason', 'from_tokens', 'buckets', 'limits')
local key = redis.call('HMGET', root .. ':key:' .. key_id, 'state', 'until_ms', 'reason', 'account', 't:' .. resource)
local buckets, probed_ms, probes = read_buckets(pair[5], pair[6]), 0, {}
local until_ms = max(blocked(key), (blocked_by_mark(key[5])), (blocked_from(pair[4], lease.cost.tokens, pair)))
if redis.call('EXISTS', host, model, account_key, unfit) > 0 then
  local owner = redis.call('HMGET', account_key, 'state', 'until_ms')
  until_ms = max(until_ms, blocked(owner), (blocked_by_mark(redis.call('HGET', unfit, pair_name))))
  for _, shared in ipairs({host, model}) do
    local shared_ms, _, tries = breaker(shared, lease_id)
    if tries == 'this' then probes[#probes + 1] = shared end
    if tries == 'another' then probed_ms = max(probed_ms, shared_ms) else until_ms = max(until_ms, shared_ms) end
  end
end
-- Where the key turned out to be another account's, nothing was reserved there.
if until_ms > 0 or key[4] and key[4] ~= account then
  end_lease(lease_id)
  give_back(buckets, lease)
  save_buckets(pair_key, buckets)
  return -1
end
if probed_ms > 0 then return probed_ms - now end

local start_ms, windowed = now, {}
for dimension, debt in pairs(lease.took) do
  local bucket = buckets[dimension]
  if bucket then
    start_ms = max(start_ms, now + ceil((bucket.debt - debt) / rate_of(bucket)))
    lease.took[dimension] = bucket.debt
    if bucket.log then
      charge(bucket, -1, lease.start_ms)
      start_ms, windowed[#windowed + 1] = max(start_ms, window_opens_ms(bucket, now)), bucket
    end
  end
end
if start_ms > now or windowed[1] then
  for _, bucket in ipairs(windowed) do charge(bucket, 1, start_ms) end
  lease.start_ms = start_ms
  save_lease(lease_id, lease)
  if windowed[1] then save_buckets(pair_key, buckets) end
end
if start_ms > now then return start_ms - now end
for _, shared in ipairs(probes) do try_alone(shared, lease_id) end
return 0
