-- requires: records
-- reclaim: take over a request, to send it again unchanged. From now on a refusal no longer frees its emails.
--
-- KEYS  1 the request's record
-- ARGV  1 now_ms or ''  2 how long the call may take, ms  3 since_ms of the request to take over
--       4 how long a request may be sent again, ms  5 a holder that is gone, or ''  6 the holder from now on
-- Returns 1; or 0 if another job is sending the request, or if the request is gone or too old.

local now = clock(ARGV[1])
local found = redis.call('HMGET', KEYS[1], 'since_ms', 'busy_ms', 'holder')
local is_busy = (tonumber(found[2]) or 0) > now and (ARGV[5] == '' or found[3] ~= ARGV[5])
if found[1] ~= ARGV[3] or is_busy then return 0 end
if now - tonumber(ARGV[3]) > tonumber(ARGV[4]) then return 0 end
redis.call('HDEL', KEYS[1], 'alone')
redis.call('HSET', KEYS[1], 'busy_ms', now + tonumber(ARGV[2]), 'holder', ARGV[6])
return 1
