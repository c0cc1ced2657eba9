-- requires: note_alive
-- renew: renews leases, and the instants in kombu's index.
--
-- KEYS  1 pulse  2 leases  3 index
-- ARGV  1 patience in seconds  2 lease in seconds  3 now in seconds since 1970, by the worker's clock, which kombu's
--       visibility timeout uses  4... the tags
-- Returns nothing.

local now_s = note_alive(KEYS[1], KEYS[2], tonumber(ARGV[1]))
local until_s = string.format('%.3f', now_s + tonumber(ARGV[2]))
for number = 4, #ARGV do
  redis.call('ZADD', KEYS[2], 'XX', until_s, ARGV[number])
  redis.call('ZADD', KEYS[3], 'XX', ARGV[3], ARGV[number])
end
