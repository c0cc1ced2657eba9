-- requires: nothing
-- end: note when a job that holds a dedupe key ended, for jobs that were enqueued before.
--
-- KEYS  1 the key's holder  2 the jobs that joined it  3 the last holder that has ended
-- ARGV  1 the job  2 how long to remember it, ms
-- Returns nothing.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end -- its time was over, and another job holds the key
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('SET', KEYS[3], string.format('%d %s', now_ms, ARGV[1]), 'PX', ARGV[2])
