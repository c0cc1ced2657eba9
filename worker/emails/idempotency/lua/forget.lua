-- forget: free the emails of an envelope although it may have been accepted (delivery at least once was asked for).
--
-- KEYS  1 the envelope's record  2 … its emails' records (a batch)
-- ARGV  1 since_ms of the envelope that is meant
-- Returns nothing.

if redis.call('HGET', KEYS[1], 'since_ms') ~= ARGV[1] then return end
redis.call('DEL', KEYS[1])
for place = 2, #KEYS do
  if redis.call('HGET', KEYS[place], 'batch') == KEYS[1] then redis.call('DEL', KEYS[place]) end
end
