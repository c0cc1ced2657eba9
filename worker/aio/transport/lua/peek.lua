-- requires: nothing
-- peek: reads the newest messages of each list, and the next ones in the order in which they are to be taken.
--
-- KEYS  the lists
-- ARGV  1 how many messages to read at either end  2 the most bytes of each list
--       3... for each list: how many of its oldest messages to skip
-- Returns for each list: how many of its oldest messages to skip next time, and the messages.

local limit, budget, answer = tonumber(ARGV[1]), tonumber(ARGV[2]) / 2, {}
local function read(items, list, first, last, step)
  local left, at = budget, first
  while at ~= last and left > 0 do
    local item = redis.call('LINDEX', list, at)
    if not item then break end
    items[#items + 1], left, at = item, left - #item, at + step
  end
  return math.abs(at - first)
end
for number, list in ipairs(KEYS) do
  local items, skipped = {}, tonumber(ARGV[2 + number])
  if redis.call('LLEN', list) <= skipped then skipped = 0 end
  skipped = skipped + read(items, list, -1 - skipped, -1 - skipped - limit, -1)
  read(items, list, 0, limit, 1)
  answer[number] = {skipped, items}
end
return answer
