-- requires: prelude, blocks
-- disable: disable a key by hand, until a person resets it; also one that the provider had refused.
--
-- ARGV  2 by  3 key id  4 reason
-- Returns 1, or 0 if it was disabled already.

local by, key_id, reason = unpack(ARGV, 2)
read_clock()
local before = read_blocks({'key:' .. key_id})[1]
if before and before.person then return 0 end
save_block('key:' .. key_id, {until_ms = NEVER, since_ms = now, reason = reason, by = by, person = by})
audit('actions', 'disabled', 'key', key_id, reason, -1, by)
return before and before.until_ms == NEVER and 0 or 1
