-- requires: nothing
-- find: looks for a job among some messages of a list, or of a tenant's sublist (see `share`).
--
-- KEYS  1 list or sublist  2 for a sublist only: hash of unacknowledged messages
-- ARGV  1 the job's id  2 how many of the next messages to skip  3 how many to read
-- Returns how many messages were read; if the job is among them, also how many stand before it, and its message.

local skipped, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local items = redis.call('LRANGE', KEYS[1], -skipped - most, -skipped - 1)
for at = #items, 1, -1 do
  local item = items[at]
  if KEYS[2] then item = redis.call('HGET', KEYS[2], item:match('^%d+ (.+)$')) or '' end
  if item:find(ARGV[1], 1, true) then return {#items, skipped + #items - at, item} end
end
return {#items}
