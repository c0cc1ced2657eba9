-- requires: note_alive
-- expired: lists the messages whose leases have ended. Deletes leases without an entry: a worker with kombu's own
-- transport has put that message back.
--
-- KEYS  1 pulse  2 leases  3 hash of unacknowledged messages
-- ARGV  1 patience in seconds  2 the most messages to list
-- Returns now, then for each message its tag, its entry and the end of its lease, 0 where its worker released it.

local now_s, hold_until_s = note_alive(KEYS[1], tonumber(ARGV[1]))
local reply, size = {string.format('%.3f', now_s)}, 0
local ended = now_s < hold_until_s and '0' or reply[1]
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ended, 'LIMIT', 0, tonumber(ARGV[2]))) do
  local entry = redis.call('HGET', KEYS[3], tag)
  if entry then
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = tag, entry, redis.call('ZSCORE', KEYS[2], tag)
    size = size + #entry
    if size > 4e6 then break end
  else
    redis.call('ZREM', KEYS[2], tag)
  end
end
return reply
