-- requires: nothing
-- wake: makes all delayed messages of a queue due, in their order. If all are due already, nothing changes.
-- It halves the instants: half of an instant is long past, and halving floating-point numbers keeps their order
-- exactly, about a thousand times.
--
-- KEYS  1 the queue's next instant  2... its sorted sets
-- Returns how many delayed messages there are.

local time, waiting, is_any_early = redis.call('TIME'), 0, false
local now_us = string.format('%.0f', time[1] * 1000000 + time[2])
for number = 2, #KEYS do
  local count = redis.call('ZCARD', KEYS[number])
  if redis.call('ZCOUNT', KEYS[number], '(' .. now_us, '+inf') > 0 then
    redis.call('ZUNIONSTORE', KEYS[number], 1, KEYS[number], 'WEIGHTS', '0.5')
    is_any_early = true
  end
  waiting = waiting + count
end
if is_any_early then redis.call('SET', KEYS[1], '0') end
return waiting
