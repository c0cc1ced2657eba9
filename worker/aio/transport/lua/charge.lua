-- requires: nothing
-- charge: adds to the times of tenants the use of their jobs beyond the one request that `share` counted for each.
--
-- KEYS  1 list
-- ARGV  for each tenant its id and the amount
-- Returns nothing.

for at = 1, #ARGV, 2 do
  for _, ending in ipairs({'.tenants', '.tenants.past'}) do
    if redis.call('ZSCORE', KEYS[1] .. ending, ARGV[at]) then
      redis.call('ZADD', KEYS[1] .. ending, 'XX', 'INCR', ARGV[at + 1], ARGV[at])
      redis.call('HSET', KEYS[1] .. '.tenants.memo', 'charged', '1')
    end
  end
end
