-- What a lease has reserved: {key, cost, start_ms, by, took, tried, tries}. `took` maps each dimension that the cost
-- was taken from to the debt of its bucket at that time; other limits may be learned while the lease is out. `tried` is
-- the dimension whose limit the call goes beyond, if it does: see learn.lua.

local function read_lease(lease_id)
  local packed = redis.call('HGET', root .. ':leased', lease_id)
  return packed and cmsgpack.unpack(packed)
end

local function save_lease(lease_id, lease)
  redis.call('HSET', root .. ':leased', lease_id, cmsgpack.pack(lease))
end

-- Ends a lease. Its key then has one call less in flight, which the caller writes down. Returns nil if it had ended.
local function end_lease(lease_id)
  local lease = read_lease(lease_id)
  if not lease then return nil end
  redis.call('HDEL', root .. ':leased', lease_id)
  redis.call('ZREM', root .. ':leases', lease_id)
  return lease
end

-- Ends a lease that is not settled.
local function drop_lease(lease_id)
  local lease = end_lease(lease_id)
  -- The previous version counted its leases elsewhere.
  if lease and lease.took then redis.call('HINCRBY', root .. ':key:' .. lease.key, 'in_flight', -1) end
  return lease
end

local function give_back(buckets, lease)
  for dimension in pairs(lease.took) do
    if buckets[dimension] then charge(buckets[dimension], -cost_in(dimension, lease.cost), lease.start_ms) end
  end
end

-- Takes the cost of a call out of all buckets, except for the one whose limit the call tries. Returns how many more
-- emails may go with it (-1: no quota is known), and `took`.
local function reserve(candidate, job, tried)
  local pair, spare, took = candidate.pair, NEVER, {}
  for dimension, bucket in pairs(pair.buckets) do
    if bucket.saving and bucket.saving.by == job.by then bucket.saving = nil end
    if dimension == tried then
      candidate.tries, bucket.credit = max(0, bucket.credit - TRY_AFTER), -now
    else
      charge(bucket, cost_in(dimension, pair.cost), candidate.start_ms)
      took[dimension] = bucket.debt
    end
    if counts_emails(dimension) then spare = min(spare, max(0, floor(bucket.level))) end
  end
  -- If that field is not new, a settle has set how long the record stays.
  if save_buckets(pair.key, pair.buckets) > 0 then redis.call('PEXPIRE', pair.key, STATE_TTL_MS) end
  return spare < NEVER and spare or -1, took
end
