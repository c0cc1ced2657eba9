-- requires: prelude, buckets, reservations
-- extend: reserve further emails for a lease's call. If the lease has ended, nothing changes.

local lease_id, more = ARGV[2], tonumber(ARGV[3])
local lease = read_lease(lease_id)
if not lease then return end
lease.cost.emails = lease.cost.emails + more
save_lease(lease_id, lease, lease.start_ms)
local buckets = read_buckets(lease.pair)
for dimension, bucket in pairs(buckets) do
  if counts_emails(dimension) then charge(bucket, more, now) end
end
save_buckets(lease.pair, buckets)
