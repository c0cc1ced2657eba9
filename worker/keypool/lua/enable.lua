-- requires: prelude, blocks
-- enable: end what a person disabled, and wake the jobs that wait. Rests and what the provider refused are left to a
-- reset.
--
-- ARGV  2 by  3 key id, '' for the whole service  4 what the audit stream calls it: event, scope, name
-- Returns 1, or 0 if no person had disabled it.

local by, key_id, event, kind, name = unpack(ARGV, 2)
local scope = 'person:' .. key_id
read_clock()
if not read_blocks({scope})[1] then return 0 end
redis.call('HDEL', blocks_key, scope)
audit('actions', event, kind, name, '', 0, by)
redis.call('PUBLISH', root .. ':wake', 'reset')
return 1
