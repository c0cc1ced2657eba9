-- requires: nothing
-- forget: deletes acknowledged messages from all three keys at once: one entry alone would stay for ever.
--
-- KEYS  1 hash of unacknowledged messages  2 index  3 leases
-- ARGV  the tags, a few hundred at most
-- Returns how many messages there were.

redis.call('ZREM', KEYS[2], unpack(ARGV))
redis.call('ZREM', KEYS[3], unpack(ARGV))
return redis.call('HDEL', KEYS[1], unpack(ARGV))
