-- requires: prelude
-- disable: disable a key by hand, until a person resets it. That also holds for a key that the provider had refused: a
-- reset of the whole service does not bring it back any more.
--
-- ARGV  2 by  3 key id  4 reason
-- Returns 1, or 0 if it was disabled already.

local by, key_id, reason = unpack(ARGV, 2)
local key = root .. ':key:' .. key_id
read_clock()
local record = redis.call('HMGET', key, 'state', 'person')
if record[1] == 'disabled' and record[2] then return 0 end
redis.call('HSET', key, 'state', 'disabled', 'until_ms', -1, 'since_ms', now, 'reason', reason, 'by', by, 'person', by)
redis.call('PERSIST', key)
audit('actions', 'disabled', 'key', key_id, reason, -1, by)
return record[1] == 'disabled' and 0 or 1
