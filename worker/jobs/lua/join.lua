-- requires: nothing
-- join: hold a dedupe key, or find the job to join: the job that holds the key, or the last one that held it.
--
-- KEYS  1 the key's holder  2 the jobs that joined it  3 the last holder that has ended, see end
-- ARGV  1 the job  2 how long the job may hold the key, ms  3 a holder that has ended ('': none is known)
--       4 when the job was enqueued, ms; 0: not known, so the job joins no job that has ended
-- Returns the id of a job, and 1 if that job has ended. The id is the job's own if it holds the key now.

local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then return { holder, 0 } end -- the job runs again: its time goes on
if holder and holder ~= ARGV[3] then
  redis.call('SADD', KEYS[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return { holder, 0 }
end
local ended_ms, last = string.match(redis.call('GET', KEYS[3]) or '', '^(%d+) (.+)$')
local enqueued_ms = tonumber(ARGV[4])
if last and last ~= ARGV[1] and enqueued_ms > 0 and enqueued_ms < tonumber(ended_ms) then return { last, 1 } end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return { ARGV[1], 0 }
