-- requires: prelude
-- put: keep a dead letter in place of an earlier one of the same job, then trim.
--
-- ARGV  1 now_ms or ''  2 max dead letters  3 keep_ms  4 max bytes of all messages
--       5 id  6 head ("service|kind" newline JSON)  7 message (JSON; empty: none)
-- Returns how many dead letters there are.

local now, keep_ms, id = clock(ARGV[1]), tonumber(ARGV[3]), ARGV[5]
-- A full server rejects this command, so it comes first: nothing is removed if the dead letter cannot be kept.
redis.call('ZADD', KEYS[1], now, id)
remove(id)
redis.call('ZADD', KEYS[1], now, id)
redis.call('HSET', KEYS[2], id, ARGV[6])
redis.call('HINCRBY', KEYS[5], ARGV[6]:match('^[^\n]*'), 1)
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[3], id, ARGV[7])
  redis.call('ZADD', KEYS[4], now, id)
  redis.call('HINCRBY', KEYS[5], 'bytes', #ARGV[7])
end
trim(now, tonumber(ARGV[2]), keep_ms, tonumber(ARGV[4]))
for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], keep_ms + 60000) end
return redis.call('ZCARD', KEYS[1])
