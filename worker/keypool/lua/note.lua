-- requires: prelude
-- note: keep a note on a key for the people who look after it. An empty one is removed.
--
-- ARGV  2 by  3 key id  4 the note

local by, key_id, text = unpack(ARGV, 2)
local key = root .. ':key:' .. key_id
read_clock()
if text == '' then redis.call('HDEL', key, 'note') else redis.call('HSET', key, 'note', text) end
audit('actions', 'noted', 'key', key_id, text, 0, by)
