-- requires: prelude, blocks
-- reinstate: bring back keys that were refused for one request in the same way, if the request looks at fault: each key
-- served other requests shortly before. A reinstated key must serve before it can be reinstated again.
-- ARGV  2 by (task id)  3 reason of the blocks  then the id of each key
-- Returns 1 if the keys are back, or 0: nothing changed.

local SERVED_MS = 600000  -- how recently a key must have served

local by, reason = ARGV[2], ARGV[3]
for index = 4, #ARGV do
  local block = read_blocks({'key:' .. ARGV[index]})[1]
  local served_ms = tonumber(redis.call('HGET', root .. ':key:' .. ARGV[index], 'ok_ms') or 0)
  local ours = block and block.until_ms == NEVER and block.by == by and block.reason == reason
  if not ours or served_ms < block.since_ms - SERVED_MS then return 0 end
end
for index = 4, #ARGV do
  redis.call('HDEL', blocks_key, 'key:' .. ARGV[index])
  redis.call('HDEL', root .. ':key:' .. ARGV[index], 'ok_ms')
  audit('audit', 'reinstated', 'key', ARGV[index], 'the request was at fault', 0, by)
end
return 1
