-- requires: prelude, buckets, reservations
-- extend: reserve emails that go along with a lease's call, beyond those that it was taken for.
--
-- ARGV  2 lease id  3 account  4 model or ''  5 emails (recipients)
-- Returns nothing. A lease that is gone changes nothing.

local lease_id, more, pair_key = ARGV[2], tonumber(ARGV[5]), root .. ':account_model:' .. ARGV[3] .. ':' .. ARGV[4]
read_clock()
local lease = read_lease(lease_id)
if not lease then return end
lease.cost.emails = lease.cost.emails + more
save_lease(lease_id, lease)
local buckets = read_buckets(unpack(redis.call('HMGET', pair_key, 'buckets', 'limits')))
for dimension, bucket in pairs(buckets) do
  if counts_emails(dimension) then charge(bucket, more, now) end
end
save_buckets(pair_key, buckets)
