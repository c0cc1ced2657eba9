-- page: some letters, the latest first.
--
-- ARGV  1 now_ms or ''  2 most letters  3 keep_ms  4 most bytes of all messages
--       5 before which ms, or 'inf'  6 how many to pass over  7 how many to give
-- Returns {id, when_ms, head, size of the message, …}; a size of 0 says that there is none.

trim(clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
local before = ARGV[5] == 'inf' and '+inf' or '(' .. ARGV[5]
local found = redis.call('ZREVRANGEBYSCORE', KEYS[1], before, '-inf', 'WITHSCORES', 'LIMIT', ARGV[6], ARGV[7])
local reply = {}
for place = 1, #found, 2 do
  local id = found[place]
  reply[#reply + 1], reply[#reply + 2] = id, found[place + 1]
  reply[#reply + 1], reply[#reply + 2] = redis.call('HGET', KEYS[2], id) or '', redis.call('HSTRLEN', KEYS[3], id)
end
return reply
