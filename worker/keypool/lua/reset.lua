-- requires: prelude, blocks, buckets
-- reset: clear blocks, and wake the jobs that wait. A bucket gets back the amount that a refusal took out for a rest,
-- but not what calls have reserved. Learned quotas are forgotten; other limits may be tried at once.
-- KEYS from 2 on: the records of accounts × models. ARGV from 6 on: the ids of the keys, and their accounts.

local KNOWN_MS = 20000  -- a limit that a refusal corrected within this time is not tried

local by, at, name, include_disabled = unpack(ARGV, 2)
local found, left, ours = {}, 0, {}
for index = 6, #ARGV do ours[ARGV[index]] = true end
for scope, packed in pairs(read_hash(blocks_key)) do
  local block, kind, owner = cmsgpack.unpack(packed), scope:match('^([%l_]+):?([^:]*)')
  if kind == 'host' or kind == 'model' or ours[owner] then
    local stays = kind == 'person' and include_disabled == ''
    if not stays then redis.call('HDEL', blocks_key, scope) end
    if block.until_ms > now then
      found[#found + 1] = {scope, block.until_ms == NEVER and 1 or 0, block.words or block.reason, block.by or ''}
      left = left + (stays and 1 or 0)
    end
  end
end
for index = 2, #KEYS do
  local buckets = read_buckets(KEYS[index])
  for dimension, bucket in pairs(buckets) do
    local held = bucket.held
    if held and held.until_ms > now then bucket.level = min(bucket.limit, bucket.level + held.amount) end
    bucket.held, bucket.passed, bucket.pace = nil, nil, 1
    if now - bucket.corrected_ms > KNOWN_MS then bucket.lent, bucket.stated = true, nil end
    if bucket.learned_ms then buckets[dimension] = nil end
  end
  save_buckets(KEYS[index], buckets)
end
local what = #found - left .. ' cleared' .. (left > 0 and ', ' .. left .. ' left disabled' or '')
audit('actions', 'reset', at, name, what, 0, by)
redis.call('PUBLISH', root .. ':wake', 'reset')
return found
