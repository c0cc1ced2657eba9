-- Stands before every verb: the clock, what rests, the audit stream.
--
-- KEYS[1] is the root of all names of a service (`{namespace:service}`, which also keeps them on one node of a cluster).
-- The scripts make the other names themselves, as names.py does: what a call sends does not grow with the keys.
-- ARGV[1] is a test's clock, or ''. A scope record is a hash: state ('disabled' or none), until_ms, since_ms, reason.
-- Times are whole milliseconds of the pool's clock.

local AUDIT_LENGTH, STATE_TTL_MS = 2000, 7 * 86400000
local BREAKER_FAULTS = 2     -- so many faults of a host or model in a row, a second apart, and it rests
local PROBE_MS = 3000        -- so long one job has to show that it works again, then the next may try
local PROBE_LOOK_MS = 300    -- who waits meanwhile looks again after this, or up to twice this
local STEP_MS = 1000         -- a clock that is so far behind what it was has been set back
local NEVER = math.huge      -- the end of a block that only a person ends

local min, max, floor, ceil = math.min, math.max, math.floor, math.ceil
local root, now, skew_ms = KEYS[1], 0, 0  -- skew_ms: by how much the pool's clock is ahead of Redis' own

-- Sets `now` by the pool's clock: Redis' own, except that it never runs backwards. Where that one is set back, the
-- pool's goes on from where it was; so rests end when they were to, ended ones stay ended, and buckets refill as if
-- nothing had happened. Returns the counter that is kept beside it as `field`.
local function read_clock(field)
  local real_ms, counters = tonumber(ARGV[1]), root .. ':inflight'
  if not real_ms then
    local time = redis.call('TIME')
    real_ms = time[1] * 1000 + floor(time[2] / 1000)
  end
  local kept = redis.call('HMGET', counters, 'clock_ms', 'skew_ms', field or 'clock_ms')
  local last_ms = tonumber(kept[1] or 0)
  skew_ms = tonumber(kept[2] or 0)
  if last_ms - real_ms - skew_ms > STEP_MS then
    skew_ms = last_ms - real_ms
    redis.call('HSET', counters, 'skew_ms', skew_ms)
  end
  now = max(last_ms, real_ms + skew_ms)
  if now - last_ms >= STEP_MS / 4 then redis.call('HSET', counters, 'clock_ms', now) end
  return tonumber(kept[3] or 0)
end

-- stream: 'audit', or 'actions' as well for what was asked for by a person or program.
local function audit(stream, event, scope, name, reason, until_ms, by)
  redis.call('XADD', root .. ':' .. stream, 'MAXLEN', '~', AUDIT_LENGTH, '*', 'at_ms', now, 'event', event,
    'scope', scope, 'name', name, 'reason', reason, 'until_ms', until_ms, 'by', by)
  if stream == 'actions' then audit('audit', event, scope, name, reason, until_ms, by) end
end

local function unpacked(packed) return packed and cmsgpack.unpack(packed) or {} end

local function read_hash(key)
  local map, flat = {}, redis.call('HGETALL', key)
  for place = 1, #flat, 2 do map[flat[place]] = flat[place + 1] end
  return map
end

-- Until when a record blocks, 0 where it does not, and why. It begins with state, until_ms, reason.
local function blocked(record)
  if record[1] == 'disabled' then return NEVER, record[3] or 'disabled' end
  local until_ms = tonumber(record[2] or 0)
  if until_ms <= now then return 0, '' end
  return until_ms, record[3] or 'cooling'
end

-- The same of an account × model: a rest that is told for calls of so many tokens or more does not hold for smaller ones.
local function blocked_from(from_tokens, tokens, record)
  local until_ms, reason = blocked(record)
  if until_ms < NEVER and tokens < tonumber(from_tokens or 0) then return 0, '' end
  return until_ms, reason
end

-- The same of a mark: a resource that a key may not be used for, or a model that an account does not have.
local function blocked_by_mark(packed)
  local mark = unpacked(packed)
  return blocked({mark.state, mark.until_ms, mark.reason})
end

-- Of two blocks the one that ends later.
local function later(until_ms, reason, other_ms, other_reason)
  if until_ms >= other_ms then return until_ms, reason end
  return other_ms, other_reason
end

-- A host or model that failed several times in a row rests, and is then tried by one lease before the others. Returns
-- until when it blocks, why, and who tries it, where one is to: 'this' lease, or 'another' one.
local function breaker(scope_key, lease_id)
  local record = redis.call('HMGET', scope_key, 'state', 'until_ms', 'reason', 'faults', 'probe_ms', 'probe_by')
  local until_ms, reason = blocked(record)
  if until_ms > 0 or tonumber(record[4] or 0) < BREAKER_FAULTS then return until_ms, reason end
  local probe_ms = tonumber(record[5] or 0)
  if probe_ms <= now or record[6] == lease_id then return 0, '', 'this' end
  local spread_ms = (tonumber(lease_id:sub(1, 4), 16) or 0) % PROBE_LOOK_MS
  return min(probe_ms, now + PROBE_LOOK_MS + spread_ms), record[3] or 'probing', 'another'
end

local function try_alone(scope_key, lease_id)
  redis.call('HSET', scope_key, 'probe_ms', now + PROBE_MS, 'probe_by', lease_id)
end
