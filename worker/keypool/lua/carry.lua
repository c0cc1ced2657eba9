-- carry: reserve emails that go along with a lease's call, beyond those that it was taken for.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id  3 account  4 model or ''  5 emails (recipients)
-- Returns nothing. A lease that is gone changes nothing.

local root, lease_id, more = KEYS[1], ARGV[2], tonumber(ARGV[5])
local now = clock(ARGV[1], root .. ':inflight')
local leased, pair = root .. ':leased', root .. ':account_model:' .. ARGV[3] .. ':' .. ARGV[4]
local packed = redis.call('HGET', leased, lease_id)
if not packed then return end
local record = cmsgpack.unpack(packed)
record.cost.emails = record.cost.emails + more
redis.call('HSET', leased, lease_id, cmsgpack.pack(record))
local buckets = buckets_of(redis.call('HGET', pair, 'limits'))
for dimension, bucket in pairs(buckets) do
  if counts_emails(dimension) then charge(bucket, more, now, now) end
end
save_buckets(pair, buckets)
