-- requires: prelude
-- page: list dead letters, the latest first.
--
-- ARGV  1 now_ms or ''  2 max dead letters  3 keep_ms  4 max bytes of all messages
--       5 before this ms, or 'inf'  6 how many to skip  7 how many to return
-- Returns {id, when_ms, head, size of the message (0: none is kept), …}.

trim(clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
local before = ARGV[5] == 'inf' and '+inf' or '(' .. ARGV[5]
local scored = redis.call('ZREVRANGEBYSCORE', KEYS[1], before, '-inf', 'WITHSCORES', 'LIMIT', ARGV[6], ARGV[7])
local reply = {}
for i = 1, #scored, 2 do
  local id = scored[i]
  reply[#reply + 1], reply[#reply + 2] = id, scored[i + 1]
  reply[#reply + 1], reply[#reply + 2] = redis.call('HGET', KEYS[2], id) or '', redis.call('HSTRLEN', KEYS[3], id)
end
return reply
