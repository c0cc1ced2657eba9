-- requires: records
-- claim: store a request before its first byte leaves, unless one of its emails has a record already.
--
-- KEYS  1 the request's record  2 … its emails' records (a batch; a single email's record is the request's)
-- ARGV  1 now_ms or ''  2 how long to keep it, ms  3 how long the call may take, ms  4 the call that claims it
--       5 account  6 idempotency key  7 body  8 members (JSON; '' for a single email)  9 the holder
--       10 … content of each email
-- Returns the indices of the emails that have a record, from 0. If there are none, the request is claimed.

local now, known = clock(ARGV[1]), {}
if redis.call('HGET', KEYS[1], 'alone') ~= ARGV[4] then -- if equal, this claim is repeated: its reply was lost
  for i = math.min(2, #KEYS), #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 1 then known[#known + 1] = #KEYS == 1 and 0 or i - 2 end
  end
  if #known > 0 then return known end
  write_request(now, ARGV[2], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV, 10)
end
redis.call('HSET', KEYS[1], 'busy_ms', now + tonumber(ARGV[3]), 'holder', ARGV[9], 'alone', ARGV[4])
return {}
