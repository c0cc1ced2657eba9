-- requires: nothing
-- delete: free the emails of a request although it may have been accepted (at-least-once delivery).
--
-- KEYS  1 the request's record  2 … its emails' records (a batch)
-- ARGV  1 since_ms of the request to free
-- Returns nothing. If the record holds a newer request, nothing changes.

if redis.call('HGET', KEYS[1], 'since_ms') ~= ARGV[1] then return end
redis.call('DEL', KEYS[1])
for i = 2, #KEYS do
  if redis.call('HGET', KEYS[i], 'batch') == KEYS[1] then redis.call('DEL', KEYS[i]) end
end
