-- Comes before every verb: the clock and the audit stream. KEYS[1] is the root of all names, from which scripts make
-- the others as names.py does. ARGV[1] is a test's clock, or ''. Times are whole milliseconds.

local AUDIT_LENGTH, STATE_TTL_MS = 2000, 7 * 86400000
local STEP_MS = 1000     -- a clock that falls behind by more than this has been set back
local NEVER = math.huge  -- the end of a block that only a person ends
local min, max, floor, ceil = math.min, math.max, math.floor, math.ceil
local root, counters = KEYS[1], KEYS[1] .. ':inflight'

-- `now` is by the pool's clock: Redis' clock, except that it never runs backwards. If Redis' clock is set back, the
-- pool's goes on from where it was, and is ahead by skew_ms.
local time, kept = redis.call('TIME'), redis.call('HMGET', counters, 'clock_ms', 'skew_ms')
local real_ms = tonumber(ARGV[1]) or time[1] * 1000 + floor(time[2] / 1000)
local last_ms, skew_ms = tonumber(kept[1] or 0), tonumber(kept[2] or 0)
if last_ms - real_ms - skew_ms > STEP_MS then
  skew_ms = last_ms - real_ms
  redis.call('HSET', counters, 'skew_ms', skew_ms)
end
local now = max(last_ms, real_ms + skew_ms)
if now - last_ms >= STEP_MS / 4 then redis.call('HSET', counters, 'clock_ms', now) end

local function audit(stream, event, scope, name, reason, until_ms, by)
  redis.call('XADD', root .. ':' .. stream, 'MAXLEN', '~', AUDIT_LENGTH, '*', 'at_ms', now, 'event', event,
    'scope', scope, 'name', name, 'reason', reason, 'until_ms', until_ms == NEVER and -1 or until_ms, 'by', by)
  if stream == 'actions' then audit('audit', event, scope, name, reason, until_ms, by) end
end

local function read_hash(key)
  local map, flat = {}, redis.call('HGETALL', key)
  for index = 1, #flat, 2 do map[flat[index]] = flat[index + 1] end
  return map
end
