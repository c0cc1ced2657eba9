-- Comes before every verb: the clock, what is blocked, the audit stream.
--
-- KEYS[1] is the root of all names (`{namespace:service}`: one node of a cluster) and ARGV[1] a test's clock, or ''.
-- Scripts make the other names themselves, as names.py does, so a call does not send more when there are more keys.
-- A scope record is a hash: state ('disabled' or none), until_ms, since_ms, reason. Times are whole milliseconds.

local AUDIT_LENGTH, STATE_TTL_MS = 2000, 7 * 86400000
local BREAKER_FAULTS = 2   -- after this many faults in a row, a second apart, a host or model rests
local PROBE_MS = 3000      -- after this time without an answer from the lease that probes, the next one may
local PROBE_LOOK_MS = 300  -- meanwhile the others look again after this time, or up to twice as much
local STEP_MS = 1000       -- a clock that falls behind by more than this has been set back
local NEVER = math.huge    -- the end of a block that only a person ends

local min, max, floor, ceil = math.min, math.max, math.floor, math.ceil
local root, now, skew_ms = KEYS[1], 0, 0  -- skew_ms: how far the pool's clock is ahead of Redis' clock

-- Sets `now` by the pool's clock: Redis' clock, except that it never runs backwards. If Redis' clock is set back, the
-- pool's continues from where it was: rests end when they should, ended ones stay ended, buckets refill as if nothing
-- had happened. Returns the number that the same hash keeps as `field`.
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

-- stream: 'audit'; or 'actions' for what a person or program asked for, which goes to both.
local function audit(stream, event, scope, name, reason, until_ms, by)
  redis.call('XADD', root .. ':' .. stream, 'MAXLEN', '~', AUDIT_LENGTH, '*', 'at_ms', now, 'event', event,
    'scope', scope, 'name', name, 'reason', reason, 'until_ms', until_ms, 'by', by)
  if stream == 'actions' then audit('audit', event, scope, name, reason, until_ms, by) end
end

local function read_hash(key)
  local map, flat = {}, redis.call('HGETALL', key)
  for index = 1, #flat, 2 do map[flat[index]] = flat[index + 1] end
  return map
end

-- Whether a record that begins with state, until_ms, reason blocks calls: {until_ms, reason}, or nil.
local function blocked(record)
  if record[1] == 'disabled' then return {until_ms = NEVER, reason = record[3] or 'disabled'} end
  local until_ms = tonumber(record[2] or 0)
  return until_ms > now and {until_ms = until_ms, reason = record[3] or 'cooling'} or nil
end

-- The same for an account × model, whose rest may be for calls of from_tokens or more only.
local function blocked_from(from_tokens, tokens, record)
  local block = blocked(record)
  return block and (block.until_ms == NEVER or tokens >= tonumber(from_tokens or 0)) and block or nil
end

-- The same for a mark: a resource that a key may not access, or a model that an account does not have.
local function blocked_by_mark(packed)
  local mark = packed and cmsgpack.unpack(packed)
  return mark and blocked({mark.state, mark.until_ms, mark.reason})
end

-- The block that ends later.
local function later(block, other)
  if block and other then return block.until_ms >= other.until_ms and block or other end
  return block or other
end

-- A host or model that failed several times in a row rests; then one lease probes it before the others may call.
-- Returns the block, if any, and if it is to be probed, which lease does that: 'this' one or 'another'.
local function breaker(scope_key, lease_id)
  local record = redis.call('HMGET', scope_key, 'state', 'until_ms', 'reason', 'faults', 'probe_ms', 'probe_by')
  local block, probe_ms = blocked(record), tonumber(record[5] or 0)
  if block or tonumber(record[4] or 0) < BREAKER_FAULTS then return block, nil end
  if probe_ms <= now or record[6] == lease_id then return nil, 'this' end
  local look_ms = now + PROBE_LOOK_MS + (tonumber(lease_id:sub(1, 4), 16) or 0) % PROBE_LOOK_MS
  return {until_ms = min(probe_ms, look_ms), reason = record[3] or 'probing'}, 'another'
end

local function note_probe(scope_key, lease_id)
  redis.call('HSET', scope_key, 'probe_ms', now + PROBE_MS, 'probe_by', lease_id)
end
