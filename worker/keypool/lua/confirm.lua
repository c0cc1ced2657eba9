-- requires: prelude, buckets, reservations, candidates
-- confirm: may a lease that has waited for its start still be used? Not if the key, or what covers it, rests by now or
-- turned out to be another account's: then the lease ends and its capacity goes back. It waits a little longer if other
-- calls left late and the provider counts in windows, if a refusal showed that there is less than expected, or while
-- another lease probes the host or model.
--
-- ARGV  2 lease id  3 key id  4 account  5 model or ''  6 resource
-- Returns how long it still has to wait, in ms (0: it goes now) · -1: it has ended (expired, unknown, or blocked)

local lease_id, key_id, account, model_name, resource = unpack(ARGV, 2)
read_clock()
local lease = read_lease(lease_id)
if not lease then return -1 end
local host, model, shared, probed_ms, probes = root .. ':host', root .. ':model:' .. model_name, nil, now, {}
local any_rests = redis.call('EXISTS', host, model, root .. ':account:' .. account, root .. ':unfit') > 0
for _, scope in ipairs(any_rests and {host, model} or {}) do
  local block, tries = breaker(scope, lease_id)
  if tries == 'this' then probes[#probes + 1] = scope
  elseif tries == 'another' then probed_ms = max(probed_ms, block.until_ms)
  else shared = shared or block end
end
local key, key_block = read_key(key_id, resource)
local pair = read_pair(account, model_name, {cost = lease.cost, first_limits = {}}, shared, any_rests)
local buckets = pair.buckets
-- Nothing was reserved at the other account.
if key_block or pair.block or pair.unfit or key[4] and key[4] ~= account then
  drop_lease(lease_id)
  give_back(buckets, lease)
  save_buckets(pair.key, buckets)
  return -1
end
if probed_ms > now then return probed_ms - now end

local start_ms, windowed = now, {}
for dimension, debt in pairs(lease.took) do
  local bucket = buckets[dimension]
  if bucket then
    start_ms = max(start_ms, now + ceil((bucket.debt - debt) / rate_of(bucket)))
    lease.took[dimension] = bucket.debt
    if bucket.log and dimension ~= 'ramp' then
      charge(bucket, -1, lease.start_ms)
      start_ms, windowed[#windowed + 1] = max(start_ms, window_opens_ms(bucket, now)), bucket
    end
  end
end
if start_ms > now or windowed[1] then
  for _, bucket in ipairs(windowed) do charge(bucket, 1, start_ms) end
  lease.start_ms = start_ms
  save_lease(lease_id, lease)
  if windowed[1] then save_buckets(pair.key, buckets) end
end
if start_ms > now then return start_ms - now end
for _, scope in ipairs(probes) do note_probe(scope, lease_id) end
return 0
