-- Which processes wait for a key, and whose turn it is.
--
-- The jobs of a process that want the same stand in one line there, and the line has one entry in a wait list: a sorted
-- set by the instant at which its first job came. Beside it stand, in `:due`, when each line is to ask again, and in
-- `:step`, how long one more call takes to fit. A line that is late by LATE_MS belongs to a process that died or hangs,
-- and is taken out. Should it ask after all, it is back where it was.

local FRONT = 2          -- so many lines may always be served out of order
local AHEAD_MS = 500     -- and as many as find room within this time, since each must ask to be served
local YOUNGER_MS = 1000  -- but none whose job came so much later than the first one
local LATE_MS = 1000
local LONGEST_MS = 2000  -- the front of a wait list asks at least this often: what changes without a word is felt then
local DEEPEST_MS = 4000
local STEP_KEPT_MS = 60000

-- Enters a line, or moves it to where its first job belongs, and notes when it asks again.
local function enter(list, line, came_ms, due_ms)
  redis.call('ZADD', list, came_ms, line)
  redis.call('ZADD', list .. ':due', due_ms, line)
end

local function leave(list, ...)
  redis.call('ZREM', list, ...)
  redis.call('ZREM', list .. ':due', ...)
end

-- How many lines came before an instant; and where it is not their turn yet, when that job is to ask again, in ms.
local function lines_before(list, came_ms)
  local before = redis.call('ZCOUNT', list, '-inf', '(' .. came_ms)
  if before == 0 then return 0, nil end
  local late = redis.call('ZRANGEBYSCORE', list .. ':due', '-inf', now - LATE_MS, 'LIMIT', 0, 100)
  if late[1] then
    leave(list, unpack(late))
    before = redis.call('ZCOUNT', list, '-inf', '(' .. came_ms)
    if before > 0 then redis.call('PUBLISH', root .. ':wake', 'room') end
  end
  local step_ms = before >= FRONT and tonumber(redis.call('GET', list .. ':step')) or 0
  local front = step_ms > 0 and max(FRONT, AHEAD_MS / step_ms) or before + 1
  if before >= front then return before, min(DEEPEST_MS, (before - front / 2) * step_ms) end
  local first = redis.call('ZRANGE', list, 0, 0, 'WITHSCORES')
  return before, first[1] and came_ms - first[2] > YOUNGER_MS and AHEAD_MS or nil
end
