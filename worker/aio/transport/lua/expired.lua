-- requires: note_alive
-- expired: lists the messages whose leases have ended. Deletes leases without an entry, because a worker with kombu's
-- own transport has put their messages back. Counts the workers: each of them looks once in a round.
--
-- KEYS  1 pulse  2 leases  3 hash of unacknowledged messages
-- ARGV  1 patience in seconds  2 the most messages to list  3 how long a round lasts, in seconds
--       4 1 for the worker's first look of this round, else 0
-- Returns the present time and how many workers looked in the last round, or in the present one if that is more; then
-- for each message its tag, its entry and the end of its lease, 0 if its worker released it.

local now_s, hold_until_s = note_alive(KEYS[1], KEYS[2], tonumber(ARGV[1]))
local round = math.floor(now_s / tonumber(ARGV[3]))
local stored = redis.call('HMGET', KEYS[1], 'round', 'looks', 'workers')
local last_round, looks, workers = tonumber(stored[1] or 0), tonumber(stored[2] or 0), tonumber(stored[3] or 0)
if round ~= last_round then
  workers, looks = round == last_round + 1 and looks or 0, 0
end
looks = looks + tonumber(ARGV[4])
redis.call('HSET', KEYS[1], 'round', round, 'looks', looks, 'workers', workers)

local reply, size = {string.format('%.3f', now_s), math.max(workers, looks)}, 0
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
