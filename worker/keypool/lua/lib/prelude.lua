-- Starts every script with the clock and the audit stream. KEYS[1] is the root of all names; scripts build other names
-- from it as names.py does. ARGV[1]: a test's clock, and a lower bound by `CallerClock`. Times are whole milliseconds.

local AUDIT_LENGTH, STATE_TTL_MS = 2000, 7 * 86400000
local STEP_MS, JUMP_MS = 1000, 2500  -- a clock that differs by more was set: requests hardly ever take that long
local NEVER = math.huge  -- until_ms of a block that only a person ends
local min, max, floor, ceil = math.min, math.max, math.floor, math.ceil
local root, counters = KEYS[1], KEYS[1] .. ':inflight'

-- `now` is the time by the pool's clock: Redis' clock, except that it never runs backwards and follows no step. After a
-- step it continues by the callers' clocks, skew_ms ahead of Redis'. In a caller's first call, steps look like pauses.
local time, kept = redis.call('TIME'), redis.call('HMGET', counters, 'clock_ms', 'skew_ms')
local test_ms, told_ms = ARGV[1]:match('^(%d*)>?(%d*)$')
local real_ms = tonumber(test_ms) or time[1] * 1000 + floor(time[2] / 1000)
local last_ms, skew_ms, told_ms = tonumber(kept[1] or 0), tonumber(kept[2] or 0), tonumber(told_ms)
local now = max(last_ms, told_ms or 0, real_ms + skew_ms)
if told_ms and now - told_ms > JUMP_MS then now = max(last_ms, told_ms) end
if math.abs(now - real_ms - skew_ms) > STEP_MS then redis.call('HSET', counters, 'skew_ms', now - real_ms) end
if now - last_ms >= STEP_MS / 4 then redis.call('HSET', counters, 'clock_ms', now) end
local late_ms = max(0, real_ms - now)  -- how far `now` is behind Redis' clock, which people read

local function audit(stream, event, scope, name, reason, until_ms, by)
  redis.call('XADD', root .. ':' .. stream, 'MAXLEN', '~', AUDIT_LENGTH, '*', 'at_ms', now + late_ms, 'event', event,
    'scope', scope, 'name', name, 'reason', reason, 'by', by,
    'until_ms', until_ms == NEVER and -1 or until_ms > 0 and until_ms + late_ms or 0)
  if stream == 'actions' then audit('audit', event, scope, name, reason, until_ms, by) end
end

local function read_hash(key)
  local map, flat = {}, redis.call('HGETALL', key)
  for index = 1, #flat, 2 do map[flat[index]] = flat[index + 1] end
  return map
end
