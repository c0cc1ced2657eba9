-- requires: nothing
-- wake_some: makes the delayed messages of some jobs due.
--
-- KEYS  1 the queue's next instant  2... its sorted sets
-- ARGV  the jobs' ids
-- Returns how many messages were made due.

local woken = 0
for number = 2, #KEYS do
  for _, id in ipairs(ARGV) do woken = woken + redis.call('ZADD', KEYS[number], 'XX', 'CH', 0, id) end
end
if woken > 0 then redis.call('SET', KEYS[1], '0') end
return woken
