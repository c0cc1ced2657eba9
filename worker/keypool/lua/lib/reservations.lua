-- What calls have reserved. `leased` in names.py says what a lease holds.

local UNCONFIRMED_MS = 1500  -- how late it may be confirmed, before its capacity goes back

local function read_lease(lease_id)
  local packed = redis.call('HGET', root .. ':leased', lease_id)
  return packed and cmsgpack.unpack(packed)
end

local function save_lease(lease_id, lease, start_ms)
  redis.call('HSET', root .. ':leased', lease_id, cmsgpack.pack(lease))
  redis.call('ZADD', root .. ':leases', start_ms + (lease.waits and UNCONFIRMED_MS or lease.lasts_ms), lease_id)
end

-- Returns the lease, or false if it had ended.
local function end_lease(lease_id)
  local lease = read_lease(lease_id)
  redis.call('HDEL', root .. ':leased', lease_id)
  redis.call('ZREM', root .. ':leases', lease_id)
  if lease and lease.took then redis.call('HINCRBY', root .. ':key:' .. lease.key, 'in_flight', -1) end
  return lease
end

-- Estimates give way to what the provider `counted` of a call, as far as it said so; if nothing (nil), all is put back.
-- What is left by the words of a refusal excludes what was in flight then. What yesterday's call had taken is not in
-- today's quota. A batch of emails that is sent again reserved none and was charged before.
local function put_right(buckets, lease, counted)
  for dimension in pairs(lease.took) do
    local bucket, cost = buckets[dimension], cost_in(dimension, lease.cost)
    local used = counted and dimension ~= 'ramp' and (counted[COUNTED[dimension]] or cost) or 0
    local since_ms = bucket and not counted and max(bucket.corrected_ms, (bucket.ends_ms or 0) - DAY_MS - 1) or 0
    local reserved = cost > 0 or not counts_emails(dimension)
    if bucket and reserved and lease.start_ms > since_ms then charge(bucket, used - cost, lease.start_ms) end
  end
end

-- Ends a lease that is not settled. If its call has not left, its capacity goes back.
local function drop_lease(lease_id, has_not_left)
  local lease = end_lease(lease_id)
  if lease and (has_not_left or lease.waits) then
    local buckets = read_buckets(lease.pair)
    put_right(buckets, lease)
    save_buckets(lease.pair, buckets)
  end
  return lease
end
