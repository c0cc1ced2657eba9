-- requires: nothing
-- join: hold a dedupe key, or note that a job waits for the job that holds it.
--
-- KEYS  1 the key's holder  2 the jobs that joined it
-- ARGV  1 the job  2 how long the job may hold the key, ms  3 a holder that has ended ('': none is known)
-- Returns the id of the job that holds the key now.

local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then return holder end -- it runs again: its time goes on
if not holder or holder == ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return ARGV[1]
end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return holder
