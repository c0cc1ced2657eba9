-- requires: nothing
-- replace: stores and publishes a value, unless the key's value has changed since it was read.
--
-- KEYS  1 the key
-- ARGV  1 SHA-1 of the value that was read  2 the new value  3 the new value's expiry in seconds, 0 for never
-- Returns the key's value if it has changed, otherwise nothing. A key that has expired counts as unchanged.

local stored = redis.call('GET', KEYS[1])
if stored and redis.sha1hex(stored) ~= ARGV[1] then return stored end
if tonumber(ARGV[3]) > 0 then redis.call('SETEX', KEYS[1], ARGV[3], ARGV[2])
else redis.call('SET', KEYS[1], ARGV[2]) end
redis.call('PUBLISH', KEYS[1], ARGV[2])
return false
