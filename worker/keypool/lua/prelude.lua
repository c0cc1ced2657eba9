-- Stands before every script: the clock, scope records, buckets, the audit stream.
--
-- Where a script is given the root of all names (`{namespace:service}`, which also keeps them on one node of a cluster),
-- it makes the names itself, as names.py does: what a call sends does not grow with the keys.
--
-- A scope record is a hash: state ('disabled' or none), until_ms, since_ms, reason. Times are whole milliseconds of
-- Redis' clock.
-- A bucket is {limit, window_ms, level, at_ms} and refills continuously, or {limit, window_ms, log = {ms, …}} where the
-- provider counts in windows: then no `limit + 1` calls may fall into any window, wherever it starts.

local AUDIT_LENGTH, STATE_TTL_MS = 2000, 7 * 86400000
local BREAKER_FAULTS = 2     -- so many faults of a host or model in a row, a second apart, and it rests
local PROBE_MS = 3000        -- so long one job has to show that it works again, then the next may try
local WINDOW_MARGIN_MS = 12  -- calls that leave in order may arrive a little closer together
local LOG_LIMIT = 200        -- beyond this many calls a window is smooth enough to count as continuous

local min, max, floor, ceil = math.min, math.max, math.floor, math.ceil

local function clock(given_ms)
  if given_ms ~= '' then return tonumber(given_ms) end
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

local function audit(stream, now_ms, event, scope, name, reason, until_ms, by)
  redis.call('XADD', stream, 'MAXLEN', '~', AUDIT_LENGTH, '*', 'at_ms', now_ms, 'event', event, 'scope', scope,
    'name', name, 'reason', reason, 'until_ms', until_ms, 'by', by)
end

-- Until when a record blocks: 0 it does not, -1 until a person resets it. Also says why.
local function blocked(state, until_ms, reason, now_ms)
  if state == 'disabled' then return -1, reason or 'disabled' end
  until_ms = until_ms and tonumber(until_ms) or 0
  if until_ms > now_ms then return until_ms, reason or 'cooling' end
  return 0, ''
end

local function blocked_topic(packed, now_ms)
  if not packed then return 0, '' end
  local topic = cmsgpack.unpack(packed)
  return blocked(topic.state, topic.until_ms, topic.reason, now_ms)
end

local function buckets_of(packed) return packed and cmsgpack.unpack(packed) or {} end

local COUNTED = {t = 'tokens', e = 'emails'}  -- by how a dimension begins; all others count requests
local kinds = {}

local function cost_in(dimension, cost)
  local kind = kinds[dimension]
  if not kind then
    kind = COUNTED[dimension:sub(1, 1)] or 'requests'
    kinds[dimension] = kind
  end
  return cost[kind]
end

-- `pace` falls below 1 where calls were refused that should have passed, and recovers with those that do.
local function rate_of(bucket) return (bucket.pace or 1) * bucket.limit / bucket.window_ms end

local function level_at(bucket, at_ms)
  return min(bucket.limit, bucket.level + max(0, at_ms - bucket.at_ms) * rate_of(bucket))
end

-- A clock that stepped back refills nothing a second time.
local function bring_up(bucket, now_ms)
  bucket.level, bucket.at_ms = level_at(bucket, now_ms), max(bucket.at_ms, now_ms)
end

local function headroom_of(bucket, now_ms)
  if not bucket.log then return level_at(bucket, now_ms) / bucket.limit end
  local recent = 0
  for _, at_ms in ipairs(bucket.log) do
    if at_ms > now_ms - bucket.window_ms then recent = recent + 1 end
  end
  return 1 - recent / bucket.limit
end

-- What stays in the bucket, so that calls that arrive a little early are not refused.
local function margin_of(bucket, cost)
  if bucket.window_ms > 3600000 then return 0 end
  return max(0, min(bucket.limit / 100, 2 * cost, bucket.limit - cost))
end

-- `level` is what is in the bucket for this job, and `rate` how fast it refills for it.
local function ready_ms(bucket, cost, now_ms, level, rate)
  if cost <= 0 then return now_ms end
  if bucket.log then
    local oldest = bucket.log[#bucket.log - bucket.limit + 1]
    local margin_ms = WINDOW_MARGIN_MS + floor((1 - (bucket.pace or 1)) * bucket.window_ms)
    return oldest and max(now_ms, oldest + bucket.window_ms + margin_ms) or now_ms
  end
  local missing = cost + margin_of(bucket, cost) - level
  return missing > 0 and now_ms + ceil(missing / rate) or now_ms
end

-- Takes `cost` out (negative: puts it back). `at_ms` is when the call starts.
local function charge(bucket, cost, at_ms, now_ms)
  if not bucket.log then
    bring_up(bucket, now_ms)
    bucket.level = bucket.level - cost
  elseif cost > 0 then
    local place = #bucket.log + 1
    while place > 1 and bucket.log[place - 1] > at_ms do place = place - 1 end
    table.insert(bucket.log, place, at_ms)
    while #bucket.log > bucket.limit do table.remove(bucket.log, 1) end
  elseif cost < 0 then
    for place = #bucket.log, 1, -1 do
      if bucket.log[place] == at_ms then table.remove(bucket.log, place) break end
    end
  end
end

local function charge_all(buckets, cost, at_ms, now_ms)
  for dimension, bucket in pairs(buckets) do charge(bucket, cost_in(dimension, cost), at_ms, now_ms) end
end

local function save_buckets(scope_key, buckets)
  if not next(buckets) then return end
  redis.call('HSET', scope_key, 'buckets', cmsgpack.pack(buckets))
  redis.call('PEXPIRE', scope_key, STATE_TTL_MS)
end

-- Ends a lease: gives its place in flight back. Returns its record, or nil where it is gone already.
local function end_lease(root, lease_id)
  local leased, inflight = root .. ':leased', root .. ':inflight'
  local packed = redis.call('HGET', leased, lease_id)
  if not packed then return nil end
  local record = cmsgpack.unpack(packed)
  redis.call('HDEL', leased, lease_id)
  redis.call('ZREM', root .. ':leases', lease_id)
  local field = 'key:' .. record.key
  if redis.call('HINCRBY', inflight, field, -1) <= 0 then redis.call('HDEL', inflight, field) end
  return record
end
