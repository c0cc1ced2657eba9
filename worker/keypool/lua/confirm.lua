-- requires: prelude, blocks, buckets, reservations
-- confirm: check that a lease may still be used after its wait. If its key is blocked by now, or belongs to another
-- account than assumed, the lease ends and its capacity is given back. The lease waits longer if a bucket has less than
-- expected, if other calls left late and the provider counts in windows, or while another lease probes host or model.

local lease_id, key_id, account, model, resource = unpack(ARGV, 2)
local lease = read_lease(lease_id)
if not lease then return -1 end
local block, probes = read_blocks_of(key_id, account, model, resource, lease_id, lease.cost.tokens)
local owner = redis.call('HGET', root .. ':key:' .. key_id, 'account')
if block and not block.probed or owner and owner ~= account then  -- the real account's buckets were not charged
  drop_lease(lease_id, true)
  return -1
end
if block then
  lease.waits = true
  save_lease(lease_id, lease, block.until_ms)
  return block.until_ms - now
end
local buckets, start_ms, windowed = read_buckets(lease.pair), now, {}
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
if start_ms > now or windowed[1] or lease.waits then
  for _, bucket in ipairs(windowed) do charge(bucket, 1, start_ms) end
  if windowed[1] then save_buckets(lease.pair, buckets) end
  lease.start_ms, lease.waits = start_ms, start_ms > now or nil
  save_lease(lease_id, lease, start_ms)
end
if start_ms == now then note_probes(probes, lease_id) end
return start_ms - now
