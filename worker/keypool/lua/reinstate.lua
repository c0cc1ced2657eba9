-- requires: prelude
-- reinstate: bring back keys that were refused for one request in the same way, if the request looks at fault: each key
-- served other requests shortly before. A reinstated key must serve before it can be reinstated again.
--
-- ARGV  2 by (task id)  3 reason of the marks  then the id of each key
-- Returns 1 if the keys are back, or 0: nothing changed.

local SERVED_MS = 600000  -- how recently a key must have served

read_clock()
local ids = {unpack(ARGV, 4)}
for _, key_id in ipairs(ids) do
  local record = redis.call('HMGET', root .. ':key:' .. key_id, 'state', 'by', 'reason', 'since_ms', 'ok_ms',
    'reinstated_ms')
  local since_ms, ok_ms = tonumber(record[4]) or now, tonumber(record[5] or 0)
  local ours = record[1] == 'disabled' and record[2] == ARGV[2] and record[3] == ARGV[3]
  if not ours or ok_ms <= tonumber(record[6] or 0) or ok_ms < since_ms - SERVED_MS then return 0 end
end
for _, key_id in ipairs(ids) do
  local key = root .. ':key:' .. key_id
  redis.call('HDEL', key, 'state', 'until_ms', 'since_ms', 'reason', 'by')
  redis.call('HSET', key, 'reinstated_ms', now)
  audit('audit', 'reinstated', 'key', key_id, 'the request was at fault', 0, ARGV[2])
end
return 1
