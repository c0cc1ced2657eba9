-- doubt: the call may have been carried out. From now on exactly this envelope goes out again.
--
-- KEYS and ARGV as for seal; ARGV 3 and 4 are not used.
-- Returns nothing.

local settled = false
for place = 2, #KEYS do settled = settled or redis.call('HEXISTS', KEYS[place], 'result') == 1 end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HDEL', KEYS[1], 'busy_ms', 'alone')
elseif not settled then
  -- Redis has lost it since (a crash costs its last second).
  write(clock(ARGV[1]), ARGV[2], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV, 9)
end
