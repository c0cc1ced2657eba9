-- Orders the lines of all processes that wait for a key: `waiting` in names.py.

local FRONT = 2          -- at least this many lines in front may be served out of order
local AHEAD_MS = 500     -- so may as many lines as find room within this time, because each line must ask to be served
local YOUNGER_MS = 1000  -- but no line whose first job came so much later than that of the first line
local LATE_MS = 1000     -- if a line is so late, its process died or hangs: it is removed until it asks again
local LONGEST_MS = 2000  -- the lines in front ask at least this often, to notice changes that are not published
local DEEPEST_MS = 4000  -- the other lines ask at least this often
local STEP_KEPT_MS = 60000

-- Adds a line, or moves it to the place of its first job, and notes when it asks again.
local function enter(list, line, came_ms, due_ms)
  redis.call('ZADD', list, came_ms, line)
  redis.call('ZADD', list .. ':due', due_ms, line)
end

local function leave(list, ...)
  redis.call('ZREM', list, ...)
  redis.call('ZREM', list .. ':due', ...)
end

-- Returns how many lines came before a job; and if it is not the job's turn yet, in how many ms to ask again.
local function lines_before(list, came_ms)
  local before = list and redis.call('ZCOUNT', list, '-inf', '(' .. came_ms) or 0
  if before == 0 then return 0, nil end
  local late = redis.call('ZRANGEBYSCORE', list .. ':due', '-inf', now - LATE_MS, 'LIMIT', 0, 100)
  if late[1] then
    leave(list, unpack(late))
    before = redis.call('ZCOUNT', list, '-inf', '(' .. came_ms)
    redis.call('PUBLISH', root .. ':wake', 'room')  -- lines behind the removed ones have moved up
  end
  local step_ms = before >= FRONT and tonumber(redis.call('GET', list .. ':step')) or 0
  local front = step_ms > 0 and max(FRONT, AHEAD_MS / step_ms) or before + 1
  if before >= front then return before, min(DEEPEST_MS, (before - front / 2) * step_ms) end
  local first = redis.call('ZRANGE', list, 0, 0, 'WITHSCORES')
  return before, first[1] and came_ms - first[2] > YOUNGER_MS and AHEAD_MS or nil
end
