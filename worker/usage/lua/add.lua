-- requires: nothing
-- add: add the counts of one process to the present minute and to the present hour of Redis' clock.
--
-- KEYS  1 root: all names begin with it (names:DAY, minute:NUMBER, hour:NUMBER, writer:ID)
-- ARGV  1 now_ms or ''  2 id of the process  3 number of its report; a report that was counted before is dropped
--       4 the most series of each kind on one day
--       then three for each series: its name (a JSON list that begins with its kind), the name that gets its counts
--       if no place is left, and its counts (in base 36, separated by commas, 0 is empty)
-- Returns 1; 0 for a report that was counted before.

local MINUTE_MS, HOUR_MS, DAY_MS = 60000, 3600000, 86400000
local MINUTES_STAY_MS, HOURS_STAY_MS = DAY_MS + MINUTE_MS, 90 * DAY_MS + HOUR_MS
local WRITER_STAYS_MS = 600000
local DIGITS = '0123456789abcdefghijklmnopqrstuvwxyz'

local root, now, floor = KEYS[1], tonumber(ARGV[1]), math.floor
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
-- The first command is a write, which a full server rejects: so a report is counted as a whole or not at all.
local writer = root .. ':writer:' .. ARGV[2]
if redis.call('SET', writer, ARGV[3], 'PX', WRITER_STAYS_MS, 'GET') == ARGV[3] then return 0 end

local names = root .. ':names:' .. floor(now / DAY_MS)
local buckets = {
  [root .. ':minute:' .. floor(now / MINUTE_MS)] = MINUTES_STAY_MS,
  [root .. ':hour:' .. floor(now / HOUR_MS)] = HOURS_STAY_MS,
}

local function base36(number)
  local text = ''
  repeat
    local digit = number % 36
    text, number = DIGITS:sub(digit + 1, digit + 1) .. text, (number - digit) / 36
  until number == 0
  return text
end

local function sum(one, other)
  local added, next_of = {}, (other .. ','):gmatch('([^,]*),')
  for count in (one .. ','):gmatch('([^,]*),') do
    local more = next_of() or ''
    if count == '' or more == '' then added[#added + 1] = count .. more
    else added[#added + 1] = base36(tonumber(count, 36) + tonumber(more, 36)) end
  end
  for more in next_of do added[#added + 1] = more end
  return table.concat(added, ',')
end

-- The counts name a series by a short number, which it keeps for a whole day.
local function new_number(name)
  local number = redis.call('HINCRBY', names, '#', 1)
  redis.call('HSET', names, name, number)
  redis.call('PEXPIRE', names, HOURS_STAY_MS + DAY_MS)
  return number
end

local function number_of(name, others)
  local number = redis.call('HGET', names, name)
  if number then return number end
  local kind = '#' .. name:match('^%["(%l+)"')
  if tonumber(redis.call('HGET', names, kind) or 0) >= tonumber(ARGV[4]) then
    return redis.call('HGET', names, others) or new_number(others)
  end
  redis.call('HINCRBY', names, kind, 1)
  return new_number(name)
end

for i = 5, #ARGV, 3 do
  local number, counts = number_of(ARGV[i], ARGV[i + 1]), ARGV[i + 2]
  for bucket, stays_ms in pairs(buckets) do
    local before = redis.call('HGET', bucket, number)
    redis.call('HSET', bucket, number, before and sum(before, counts) or counts)
    if not before then redis.call('PEXPIRE', bucket, stays_ms) end
  end
end
return 1
