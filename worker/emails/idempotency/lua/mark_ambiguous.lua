-- requires: records
-- mark_ambiguous: keep a request whose call may have been carried out. From now on only exactly this request is sent.
--
-- KEYS and ARGV as for claim; ARGV 3, 4 and 9 are not used.
-- Returns nothing.

local completed = false
for i = 2, #KEYS do completed = completed or redis.call('HEXISTS', KEYS[i], 'result') == 1 end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HDEL', KEYS[1], 'busy_ms', 'holder', 'alone')
elseif not completed then
  -- Redis has lost the record: in a crash it loses the last second.
  write_request(clock(ARGV[1]), ARGV[2], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV, 10)
end
