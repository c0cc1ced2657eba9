-- release: the call was surely not carried out. Who sealed the envelope and was alone with it frees its emails.
--
-- KEYS  1 the envelope's record  2 … its emails' records (a batch)
-- ARGV  1 who sealed it
-- Returns 1 where the emails are free, 0 where an earlier or another attempt may have been accepted.

if redis.call('HGET', KEYS[1], 'alone') == ARGV[1] then
  redis.call('DEL', unpack(KEYS))
  return 1
end
redis.call('HDEL', KEYS[1], 'busy_ms')
return 0
