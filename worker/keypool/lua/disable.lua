-- requires: prelude, blocks
-- disable: disable a key by hand, or all of the service's, for a time or until a person enables it; also one that the
-- provider had refused.
--
-- ARGV  2 by  3 key id, '' for the whole service  4 reason  5 for how long, ms; '' without end
--       6 what the audit stream calls it: event, scope, name
-- Returns 1, or 0 if it was disabled already.

local by, key_id, reason, for_ms = unpack(ARGV, 2)
local event, kind, name = unpack(ARGV, 6)
local scope, own = 'person:' .. key_id, 'key:' .. key_id
read_clock()
local before, refused = unpack(read_blocks({scope, own}))
local until_ms = for_ms == '' and NEVER or now + tonumber(for_ms)
if before and before.until_ms == NEVER and until_ms == NEVER then return 0 end
-- Jobs learn a code; a person's words are for people.
save_block(scope, {until_ms = until_ms, since_ms = now, reason = key_id == '' and 'paused' or 'disabled', by = by,
  person = by, words = reason})
if until_ms == NEVER then redis.call('HDEL', blocks_key, own) end
audit('actions', event, kind, name, reason, until_ms == NEVER and -1 or until_ms, by)
return (before or refused and refused.until_ms == NEVER) and 0 or 1
