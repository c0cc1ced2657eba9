-- requires: clock
-- delay: stores a message beside its list until it is due. It replaces another message of the same job.
--
-- KEYS  1 the list's sorted set  2 the queue's texts  3 the queue's next instant  4 clock
-- ARGV  1 job id  2 text of the message  3 countdown in microseconds
-- Returns the instant at which it is due, in microseconds since 1970.

local due_us = clock_us(KEYS[4]) + tonumber(ARGV[3])
local text = string.format('%.0f', due_us)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], text, ARGV[1])
local next_us = redis.call('GET', KEYS[3])
if not next_us or due_us < tonumber(next_us) then redis.call('SET', KEYS[3], text) end
return text
