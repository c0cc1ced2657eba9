-- disable: take a key out by hand, until a person resets it.
--
-- KEYS  1 audit (stream)  2 key record
-- ARGV  1 now_ms or ''  2 by  3 key id  4 reason
-- Returns 1, or 0 where it was disabled already.

local now = clock(ARGV[1])
if redis.call('HGET', KEYS[2], 'state') == 'disabled' then return 0 end
redis.call('HSET', KEYS[2], 'state', 'disabled', 'until_ms', -1, 'since_ms', now, 'reason', ARGV[4], 'by', ARGV[2])
redis.call('PERSIST', KEYS[2])
audit(KEYS[1], now, 'disabled', 'key', ARGV[3], ARGV[4], -1, ARGV[2])
return 1
