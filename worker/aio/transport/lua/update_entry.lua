-- requires: nothing
-- update_entry: replaces the entry of an unacknowledged message, if it is still there.
--
-- KEYS  1 hash of unacknowledged messages
-- ARGV  1 tag  2 entry
-- Returns nothing.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
