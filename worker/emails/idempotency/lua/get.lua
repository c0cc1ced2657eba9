-- requires: records
-- get: read the record of an email, or of the batch that contains it.
--
-- KEYS  1 the email's record, or the batch's
-- ARGV  1 now_ms or ''  2 content; '' for a batch  3 how long a request may be sent again, ms
-- Returns {'free'} · {'mismatch'} · {'sent', result} · {'batch', name} · {'lost'}
--         {'open' | 'busy' | 'stale', left_ms, since_ms, account, key, body, members or '', holder or ''}

local now = clock(ARGV[1])
local found = redis.call('HMGET', KEYS[1], 'content', 'result', 'batch', 'since_ms', 'busy_ms',
  'account', 'key', 'body', 'members', 'holder')
if ARGV[2] ~= '' then
  if not found[1] then return {'free'} end
  if found[1] ~= ARGV[2] then return {'mismatch'} end
  if found[2] then return {'sent', found[2]} end
  if found[3] then return {'batch', found[3]} end
end
if not found[4] then return {'lost'} end
local left_ms, state = math.max(0, (tonumber(found[5]) or 0) - now), 'open'
if left_ms > 0 then state = 'busy' elseif now - tonumber(found[4]) > tonumber(ARGV[3]) then state = 'stale' end
return {state, left_ms, tonumber(found[4]), found[6], found[7], found[8], found[9] or '', found[10] or ''}
