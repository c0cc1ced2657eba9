-- requires: prelude
-- delete: remove dead letters that have not been replaced meanwhile, and log the removal in the audit stream. A
-- replay's entry also names jobs that have already succeeded and removed their own dead letter.
--
-- ARGV  1 now_ms or ''  2 event ('' for no entry)  3 service  4 by  5 audit length  6 … id, when_ms ('' for any), …
-- Returns how many were removed.

local now, removed, names = clock(ARGV[1]), 0, {}
for i = 6, #ARGV, 2 do
  local id, at = ARGV[i], ARGV[i + 1]
  local score = redis.call('ZSCORE', KEYS[1], id)
  if score and (at == '' or tonumber(at) == tonumber(score)) then
    removed = removed + remove(id)
    names[#names + 1] = id
  elseif ARGV[2] == 'replayed' then
    names[#names + 1] = id
  end
end
if #names > 0 and ARGV[2] ~= '' then
  local name = #names == 1 and names[1] or (#names .. ' dead letters')
  redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[5], '*', 'at_ms', now, 'event', ARGV[2], 'scope', 'dead_letter',
    'name', name, 'reason', '', 'until_ms', 0, 'by', ARGV[4], 'service', ARGV[3])
end
return removed
