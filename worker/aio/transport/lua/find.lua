-- requires: nothing
-- find: looks for a job among some messages of a list, or of a tenant's line (see `share`).
--
-- KEYS  1 list or line  2 hash of unacknowledged messages, where it is a line
-- ARGV  1 the job's id  2 how many of the next messages to skip  3 how many to read
-- Returns how many were read, how many stand before the job and its message, if it is among them.

local skipped, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local items = redis.call('LRANGE', KEYS[1], -skipped - most, -skipped - 1)
for at = #items, 1, -1 do
  local item = items[at]
  if KEYS[2] then item = redis.call('HGET', KEYS[2], item:match('^%d+ (.+)$')) or '' end
  if item:find(ARGV[1], 1, true) then return {#items, skipped + #items - at, item} end
end
return {#items}
