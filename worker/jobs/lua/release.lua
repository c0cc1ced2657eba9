-- requires: nothing
-- release: free a dedupe key whose job has ended.
--
-- KEYS  1 the key's holder  2 the jobs that joined it
-- ARGV  1 the job that has ended
-- Returns the ids of the jobs that joined the job.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {} end
local joined = redis.call('SMEMBERS', KEYS[2])
redis.call('DEL', KEYS[1], KEYS[2])
return joined
