-- disable: take a key out by hand, until a person resets it. A key that the provider had refused is then out by hand,
-- too: a reset of the whole service does not bring it back any more.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 by  3 key id  4 reason
-- Returns 1, or 0 where it was disabled already.

local root, key = KEYS[1], KEYS[1] .. ':key:' .. ARGV[3]
local now = clock(ARGV[1], root .. ':inflight')
local record = redis.call('HMGET', key, 'state', 'person')
if record[1] == 'disabled' and record[2] then return 0 end
redis.call('HSET', key, 'state', 'disabled', 'until_ms', -1, 'since_ms', now, 'reason', ARGV[4], 'by', ARGV[2],
  'person', ARGV[2])
redis.call('PERSIST', key)
for _, stream in ipairs({':audit', ':actions'}) do
  audit(root .. stream, now, 'disabled', 'key', ARGV[3], ARGV[4], -1, ARGV[2])
end
return record[1] == 'disabled' and 0 or 1
