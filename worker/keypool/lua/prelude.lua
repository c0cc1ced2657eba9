-- Stands before every script: the clock, scope records, leases, the audit stream.
--
-- Where a script is given the root of all names (`{namespace:service}`, which also keeps them on one node of a
-- cluster), it makes the names itself, as names.py does: what a call sends does not grow with the keys.
--
-- A scope record is a hash: state ('disabled' or none), until_ms, since_ms, reason. Times are whole milliseconds of the
-- pool's clock.

local AUDIT_LENGTH, STATE_TTL_MS = 2000, 7 * 86400000
local BREAKER_FAULTS = 2     -- so many faults of a host or model in a row, a second apart, and it rests
local PROBE_MS = 3000        -- so long one job has to show that it works again, then the next may try
local PROBE_LOOK_MS = 300    -- who waits meanwhile looks again after this, or up to twice this

local STEP_MS = 1000         -- a clock that is so far behind what it was has been set back

local min, max, floor, ceil = math.min, math.max, math.floor, math.ceil
local skew_ms = 0            -- by how much the pool's clock is ahead of Redis' own

-- The pool's clock: Redis' own, except that it never runs backwards. Where that one is set back, the pool's goes on
-- from where it was; so rests end when they were to, ended ones stay ended, and buckets refill as if nothing had
-- happened. Also gives a number that stands beside it, 0 where there is none.
local function clock(given_ms, counters, field)
  local real_ms = tonumber(given_ms)
  if not real_ms then
    local time = redis.call('TIME')
    real_ms = time[1] * 1000 + floor(time[2] / 1000)
  end
  local kept = redis.call('HMGET', counters, 'clock_ms', 'skew_ms', field or 'clock_ms')
  local last_ms = tonumber(kept[1]) or 0
  skew_ms = tonumber(kept[2]) or 0
  if last_ms - real_ms - skew_ms > STEP_MS then
    skew_ms = last_ms - real_ms
    redis.call('HSET', counters, 'skew_ms', skew_ms)
  end
  local now_ms = max(last_ms, real_ms + skew_ms)
  if now_ms - last_ms >= STEP_MS / 4 then redis.call('HSET', counters, 'clock_ms', now_ms) end
  return now_ms, tonumber(kept[3]) or 0
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

-- The same of a rest that is told for calls of so many tokens or more: it does not hold for smaller ones.
local function blocked_from(from_tokens, tokens, until_ms, reason)
  if until_ms > 0 and tokens < tonumber(from_tokens or 0) then return 0, '' end
  return until_ms, reason
end

local function blocked_topic(packed, now_ms)
  if not packed then return 0, '' end
  local topic = cmsgpack.unpack(packed)
  return blocked(topic.state, topic.until_ms, topic.reason, now_ms)
end

-- A host or model that failed several times in a row rests, and is then tried by one job before the others.
-- Returns until when it blocks, why, and whether this lease is the one that tries, or would be.
local function breaker(scope_key, lease_id, now_ms)
  local record = redis.call('HMGET', scope_key, 'state', 'until_ms', 'reason', 'faults', 'probe_ms', 'probe_by')
  local until_ms, reason = blocked(record[1], record[2], record[3], now_ms)
  if until_ms ~= 0 or (tonumber(record[4]) or 0) < BREAKER_FAULTS then return until_ms, reason, false end
  local probe_ms = tonumber(record[5]) or 0
  if probe_ms > now_ms and record[6] ~= lease_id then
    local spread_ms = (tonumber(lease_id:sub(1, 4), 16) or 0) % PROBE_LOOK_MS
    return min(probe_ms, now_ms + PROBE_LOOK_MS + spread_ms), record[3] or 'probing', false
  end
  return 0, '', true
end

local function try_alone(scope_key, lease_id, now_ms)
  redis.call('HSET', scope_key, 'probe_ms', now_ms + PROBE_MS, 'probe_by', lease_id)
end

local function unpacked(packed) return packed and cmsgpack.unpack(packed) or {} end

-- Why an account is unfit for a model, nil where it is not. Such marks are few, and most of the time there is none.
local function unfit_for(root, pair_name, now_ms)
  local mark = unpacked(redis.call('HGET', root .. ':unfit', pair_name))
  return mark.until_ms and mark.until_ms > now_ms and mark.reason or nil
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
