-- Stands before every verb: the clock, what rests, the audit stream.
--
-- KEYS[1] is the root of all names (`{namespace:service}`: one node of a cluster) and ARGV[1] a test's clock, or ''.
-- Scripts make the other names themselves, as names.py does: what a call sends does not grow with the keys.
-- A scope record is a hash: state ('disabled' or none), until_ms, since_ms, reason. Times are whole milliseconds.

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

local function read_hash(key)
  local map, flat = {}, redis.call('HGETALL', key)
  for place = 1, #flat, 2 do map[flat[place]] = flat[place + 1] end
  return map
end

-- What blocks calls by a record that begins with state, until_ms, reason: {until_ms, reason}, or nil.
local function blocked(record)
  if record[1] == 'disabled' then return {until_ms = NEVER, reason = record[3] or 'disabled'} end
  local until_ms = tonumber(record[2] or 0)
  return until_ms > now and {until_ms = until_ms, reason = record[3] or 'cooling'} or nil
end

-- The same of an account × model: what is told for calls of so many tokens or more does not hold for smaller ones.
local function blocked_from(from_tokens, tokens, record)
  local block = blocked(record)
  return block and (block.until_ms == NEVER or tokens >= tonumber(from_tokens or 0)) and block or nil
end

-- The same of a mark: a resource that a key may not be used for, or a model that an account does not have.
local function blocked_by_mark(packed)
  local mark = packed and cmsgpack.unpack(packed)
  return mark and blocked({mark.state, mark.until_ms, mark.reason})
end

-- Of two blocks the one that ends later.
local function later(one, other)
  if one and other then return one.until_ms >= other.until_ms and one or other end
  return one or other
end

-- A host or model that failed several times in a row rests, and is then tried by one lease before the others. Returns
-- what blocks, and who tries it, where one is to: 'this' lease, or 'another' one.
local function breaker(scope_key, lease_id)
  local record = redis.call('HMGET', scope_key, 'state', 'until_ms', 'reason', 'faults', 'probe_ms', 'probe_by')
  local block, probe_ms = blocked(record), tonumber(record[5] or 0)
  if block or tonumber(record[4] or 0) < BREAKER_FAULTS then return block, nil end
  if probe_ms <= now or record[6] == lease_id then return nil, 'this' end
  local look_ms = now + PROBE_LOOK_MS + (tonumber(lease_id:sub(1, 4), 16) or 0) % PROBE_LOOK_MS
  return {until_ms = min(probe_ms, look_ms), reason = record[3] or 'probing'}, 'another'
end

local function try_alone(scope_key, lease_id)
  redis.call('HSET', scope_key, 'probe_ms', now + PROBE_MS, 'probe_by', lease_id)
end
