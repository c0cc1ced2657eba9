-- Reads, saves and ends leases. `leased` in names.py documents their fields.

local UNCONFIRMED_MS = 1500  -- how late a lease may be confirmed, before its capacity is given back

local function read_lease(lease_id)
  local packed = redis.call('HGET', root .. ':leased', lease_id)
  return packed and cmsgpack.unpack(packed)
end

local function save_lease(lease_id, lease, start_ms)
  redis.call('HSET', root .. ':leased', lease_id, cmsgpack.pack(lease))
  redis.call('ZADD', root .. ':leases', start_ms + (lease.waits and UNCONFIRMED_MS or lease.lasts_ms), lease_id)
end

-- Ends a lease. Returns it, or false if it had ended before.
local function end_lease(lease_id)
  local lease = read_lease(lease_id)
  redis.call('HDEL', root .. ':leased', lease_id)
  redis.call('ZREM', root .. ':leases', lease_id)
  if lease and lease.took then redis.call('HINCRBY', root .. ':key:' .. lease.key, 'in_flight', -1) end
  return lease
end

-- Replaces estimates by what the provider `counted` of a call, as far as it said so. If `counted` is nil, all is put
-- back, but not into a bucket that a refusal has corrected since, or a quota that is full again: the charge is gone.
-- A batch of emails that is sent again has reserved no emails, because its first attempt was charged.
local function put_right(buckets, lease, counted)
  for dimension in pairs(lease.took) do
    local bucket, cost = buckets[dimension], cost_in(dimension, lease.cost)
    local used = counted and dimension ~= 'ramp' and (counted[COUNTED[dimension]] or cost) or 0
    local since_ms = bucket and not counted and max(bucket.corrected_ms, (bucket.ends_ms or 0) - DAY_MS - 1) or 0
    local reserved = cost > 0 or not counts_emails(dimension)
    if bucket and reserved and lease.start_ms > since_ms then charge(bucket, used - cost, lease.start_ms) end
  end
end

-- Ends a lease without a settlement. If its call has not left, its capacity is given back.
local function drop_lease(lease_id, has_not_left)
  local lease = end_lease(lease_id)
  if lease and (has_not_left or lease.waits) then
    local buckets = read_buckets(lease.pair)
    put_right(buckets, lease)
    save_buckets(lease.pair, buckets)
  end
  return lease
end
