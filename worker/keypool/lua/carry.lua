-- carry: reserve emails that go along with a lease's call, beyond those that it was taken for.
--
-- KEYS  1 leased  2 account × model record
-- ARGV  1 now_ms or ''  2 lease id  3 emails (recipients)
-- Returns nothing. A lease that is gone changes nothing.

local now = clock(ARGV[1])
local packed = redis.call('HGET', KEYS[1], ARGV[2])
if not packed then return end
local record, more = cmsgpack.unpack(packed), tonumber(ARGV[3])
record.cost.emails = record.cost.emails + more
redis.call('HSET', KEYS[1], ARGV[2], cmsgpack.pack(record))
local buckets = buckets_of(redis.call('HGET', KEYS[2], 'limits'))
charge_all(buckets, {requests = 0, tokens = 0, emails = more}, now, now)
save_buckets(KEYS[2], buckets)
