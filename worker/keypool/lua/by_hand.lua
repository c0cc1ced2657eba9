-- requires: prelude, blocks
-- by_hand: carry out and audit a person's action on one key or on all keys of the service; or reinstate a key that
-- only one job had disabled ('reinstated'). `Scripts.by_hand` documents the arguments and the reply.

local by, key_id, words, for_ms, event, kind, name = unpack(ARGV, 2)
local scope, own, until_ms, earlier = 'person:' .. key_id, 'key:' .. key_id, 0, {}
local before, refused = unpack(read_blocks({scope, own}))
if event == 'noted' then redis.call('HSET', root .. ':' .. own, 'note', words)
elseif event == 'enabled' or event == 'resumed' then  -- rests and refusals by the provider are left to a reset
  if not before then return {0} end
  redis.call('HDEL', blocks_key, scope)
  redis.call('PUBLISH', root .. ':wake', 'reset')
elseif event == 'reinstated' then
  if not refused or refused.by ~= by then return {0} end
  redis.call('HDEL', blocks_key, own)
  redis.call('HDEL', root .. ':' .. own, 'ok_ms')  -- the key must serve before it can be reinstated again
elseif event ~= 'reloaded' then
  until_ms = for_ms == '' and NEVER or now + tonumber(for_ms)
  local left_ms = before and (before.until_ms == NEVER and -1 or before.until_ms - now)
  if before then earlier = {left_ms, before.by, before.words or ''} end
  if left_ms == -1 then return {0, unpack(earlier)} end
  -- Jobs see `reason`, which is a code. Only people see `words`.
  save_block(scope, {until_ms = until_ms, since_ms = now, reason = event, by = by, words = words})
  if until_ms == NEVER then redis.call('HDEL', blocks_key, own) end
end
audit(event == 'reinstated' and 'audit' or 'actions', event, kind, name, words, until_ms, by)
local done = until_ms == 0 or not (before or refused and refused.until_ms == NEVER)
return {done and 1 or 0, unpack(earlier)}
