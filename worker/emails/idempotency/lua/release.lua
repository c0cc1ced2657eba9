-- requires: nothing
-- release: free the emails of a call that was certainly not carried out, if no other call was made with the request.
--
-- KEYS  1 the request's record  2 … its emails' records (a batch)
-- ARGV  1 the call that claimed the request
-- Returns 1 if the emails are free; 0 if an earlier or a concurrent attempt may have been accepted.

local alone = redis.call('HGET', KEYS[1], 'alone')
if alone == ARGV[1] then
  redis.call('DEL', unpack(KEYS))
  return 1
end
if not alone then redis.call('HDEL', KEYS[1], 'busy_ms') end  -- if set, another call has claimed it meanwhile
return 0
