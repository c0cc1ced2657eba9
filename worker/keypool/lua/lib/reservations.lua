-- What a lease has reserved: {key, cost, start_ms, by, took = {dimension = debt of its bucket then}, tried, tries}.
-- `took` names the buckets that the cost was taken out of: others may be learned while the lease is out. `tried` is
-- the bucket whose limit the call goes beyond, if it does: see learn.lua.

local function read_lease(lease_id)
  local packed = redis.call('HGET', root .. ':leased', lease_id)
  return packed and cmsgpack.unpack(packed)
end

local function save_lease(lease_id, lease)
  redis.call('HSET', root .. ':leased', lease_id, cmsgpack.pack(lease))
end

-- Ends a lease, whose key has one less in flight then. Returns what it had reserved, or nil where it is gone already.
local function end_lease(lease_id)
  local lease = read_lease(lease_id)
  if not lease then return nil end
  redis.call('HDEL', root .. ':leased', lease_id)
  redis.call('ZREM', root .. ':leases', lease_id)
  return lease
end

-- The same for a lease that is not settled.
local function drop_lease(lease_id)
  local lease = end_lease(lease_id)
  -- The version before this one counted its leases elsewhere.
  if lease and lease.took then redis.call('HINCRBY', root .. ':key:' .. lease.key, 'in_flight', -1) end
  return lease
end

local function give_back(buckets, lease)
  for dimension in pairs(lease.took) do
    if buckets[dimension] then charge(buckets[dimension], -cost_in(dimension, lease.cost), lease.start_ms) end
  end
end

-- Takes what a call costs out of the buckets of its account, except for the one whose limit it tries. Returns how many
-- more emails may go along (-1: no quota is known), and `took`.
local function reserve(best, job, tried)
  local pair, spare, took = best.pair, NEVER, {}
  for dimension, bucket in pairs(pair.buckets) do
    if bucket.saving and bucket.saving.by == job.by then bucket.saving = nil end
    if dimension == tried then
      best.tries, bucket.credit = max(0, bucket.credit - TRY_AFTER), -now
    else
      charge(bucket, cost_in(dimension, pair.cost), best.start_ms)
      took[dimension] = bucket.debt
    end
    if counts_emails(dimension) then spare = min(spare, max(0, floor(bucket.level))) end
  end
  -- Where that is nothing new, an earlier settle has said how long the record stays.
  if save_buckets(pair.key, pair.buckets) > 0 then redis.call('PEXPIRE', pair.key, STATE_TTL_MS) end
  return spare < NEVER and spare or -1, took
end
