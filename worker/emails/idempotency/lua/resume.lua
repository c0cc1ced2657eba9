-- resume: take an envelope over, to send it again as it is. Nobody may free its emails by a refusal from now on.
--
-- KEYS  1 the envelope's record
-- ARGV  1 now_ms or ''  2 how long the call may take, ms  3 since_ms of the envelope that is meant
--       4 how long an envelope may be sent again, ms
-- Returns 1, or 0 where somebody else is sending it, it is gone, or too old by now.

local now = clock(ARGV[1])
local found = redis.call('HMGET', KEYS[1], 'since_ms', 'busy_ms')
if found[1] ~= ARGV[3] or (tonumber(found[2]) or 0) > now then return 0 end
if now - tonumber(ARGV[3]) > tonumber(ARGV[4]) then return 0 end
redis.call('HDEL', KEYS[1], 'alone')
redis.call('HSET', KEYS[1], 'busy_ms', now + tonumber(ARGV[2]))
return 1
