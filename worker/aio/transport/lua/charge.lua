-- requires: nothing
-- charge: adds to the times of tenants what their jobs have used beyond what `share` counted when they were taken.
--
-- KEYS  1 list
-- ARGV  for each tenant its id and how much
-- Returns nothing.

for at = 1, #ARGV, 2 do
  for _, ending in ipairs({'.tenants', '.tenants.past'}) do
    if redis.call('ZSCORE', KEYS[1] .. ending, ARGV[at]) then
      redis.call('ZADD', KEYS[1] .. ending, 'XX', 'INCR', ARGV[at + 1], ARGV[at])
      redis.call('HSET', KEYS[1] .. '.tenants.memo', 'charged', '1')
    end
  end
end
