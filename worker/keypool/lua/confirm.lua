-- requires: prelude, blocks, buckets, reservations, candidates
-- confirm: may a lease that has waited for its start still be used? Not if the key, or what covers it, rests by now or
-- turned out to be another account's: then the lease ends and its capacity goes back. It waits a little longer if other
-- calls left late and the provider counts in windows, if a refusal showed that there is less than expected, or while
-- another lease probes the host or model.
--
-- ARGV  2 lease id  3 key id  4 account  5 model or ''  6 resource
-- Returns how long it still has to wait, in ms (0: it goes now) · -1: it has ended (expired, unknown, or blocked)

local lease_id, key_id, account, model, resource = unpack(ARGV, 2)
read_clock()
local lease = read_lease(lease_id)
if not lease then return -1 end
local any_blocks, shared, probed_ms, probes = redis.call('HLEN', blocks_key) > 0, {'host', 'model:' .. model}, now, {}
local blocks = any_blocks and read_blocks(scopes_of(key_id, account, model, resource)) or {}
for index, record in ipairs(any_blocks and read_blocks(shared) or {}) do
  local block, tries = breaker(record, lease_id)
  if tries == 'this' then probes[shared[index]] = record
  elseif tries == 'another' then probed_ms = max(probed_ms, block.until_ms)
  else blocks[#blocks + 1] = block end
end
local pair = read_pair(account .. ':' .. model, {cost = lease.cost}, {})
local owner = redis.call('HGET', root .. ':key:' .. key_id, 'account')
-- Nothing was reserved at the other account.
if last_block(blocks, lease.cost.tokens) or owner and owner ~= account then
  drop_lease(lease_id)
  give_back(pair.buckets, lease)
  save_buckets(pair.key, pair.buckets)
  return -1
end
if probed_ms > now then return probed_ms - now end

local start_ms, windowed = now, {}
for dimension, debt in pairs(lease.took) do
  local bucket = pair.buckets[dimension]
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
  if windowed[1] then save_buckets(pair.key, pair.buckets) end
end
if start_ms == now then
  for scope, record in pairs(probes) do note_probe(scope, record, lease_id) end
end
return start_ms - now
