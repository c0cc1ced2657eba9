-- doubt: the call may have been carried out. From now on exactly this envelope goes out again.
--
-- KEYS and ARGV as for seal; ARGV 3 and 4 are not used.
-- Returns nothing.

if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HDEL', KEYS[1], 'busy_ms', 'alone')
elseif #KEYS == 1 or redis.call('HEXISTS', KEYS[2], 'result') + redis.call('HEXISTS', KEYS[#KEYS], 'result') == 0 then
  -- Redis has lost it since (a crash costs its last second).
  write(clock(ARGV[1]), ARGV[2], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV, 9)
end
