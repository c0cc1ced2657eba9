-- reset: clear cooldowns and disabled marks of the records given, and wake the jobs that wait. What a provider's word
-- had taken out of a bucket for the time of a rest comes back with it; quotas that were learned are learned anew, and
-- whether the provider has raised the other limits is tried at once. What calls have reserved stays reserved. A key
-- that a person disabled stays disabled, unless the reset includes those.
--
-- KEYS  1 root of all names  2 accounts that are unfit for a model (hash)  3 … the records of keys, accounts, account ×
-- models, models, host
-- ARGV  1 now_ms or ''  2 by  3 scope (service or key)  4 name (service or key id)
--       5 '1': bring back keys that a person disabled, too
-- Returns the blocks that held, each [place of its record from 1 on, topic or '', 'cooling' | 'disabled', reason,
-- the person who disabled it or '', 1: cleared | 0: left disabled].

local KNOWN_MS = 20000  -- what a refusal has just told need not be tried

local root, found, cleared = KEYS[1], {}, 0
local now = clock(ARGV[1], root .. ':inflight')

local function note(place, topic, until_ms, reason, person, stays)
  if until_ms == 0 then return end
  if not stays then cleared = cleared + 1 end
  local state = until_ms < 0 and 'disabled' or 'cooling'
  found[#found + 1] = {place - 2, topic, state, reason, person or '', stays and 0 or 1}
end

for place = 3, #KEYS do
  local account = KEYS[place]:sub(1, #root + 9) == root .. ':account:' and KEYS[place]:sub(#root + 10) .. ':'
  for _, pair_name in ipairs(account and redis.call('HKEYS', KEYS[2]) or {}) do
    if pair_name:sub(1, #account) == account then
      local mark = unpacked(redis.call('HGET', KEYS[2], pair_name))
      note(place, pair_name:sub(#account + 1), mark.until_ms > now and mark.until_ms or 0, mark.reason)
      redis.call('HDEL', KEYS[2], pair_name)
    end
  end
end

for place = 3, #KEYS do
  local record = redis.call('HMGET', KEYS[place], 'state', 'until_ms', 'reason', 'person')
  local until_ms, reason = blocked(record[1], record[2], record[3], now)
  local stays = record[4] and ARGV[5] ~= '1'
  note(place, '', until_ms, reason, record[4], stays)
  for _, field in ipairs(redis.call('HKEYS', KEYS[place])) do
    if field:sub(1, 2) == 't:' then
      note(place, field:sub(3), blocked_topic(redis.call('HGET', KEYS[place], field), now))
      redis.call('HDEL', KEYS[place], field)
    end
  end
  local limits = redis.call('HGET', KEYS[place], 'limits')
  local buckets = buckets_of(limits)
  for dimension, bucket in pairs(buckets) do
    let_go(bucket, now)
    bucket.pace = 1
    if now - (bucket.corrected_ms or 0) > KNOWN_MS then bucket.credit = TRY_AFTER end
    if bucket.learned_ms then buckets[dimension] = nil end
  end
  if limits then save_buckets(KEYS[place], buckets) end
  if not stays then
    redis.call('HDEL', KEYS[place], 'state', 'until_ms', 'since_ms', 'reason', 'by', 'person', 'from_tokens', 'faults',
      'probe_ms', 'probe_by')
  end
end

local what = cleared .. ' cleared' .. (#found > cleared and ', ' .. #found - cleared .. ' left disabled' or '')
for _, stream in ipairs({':audit', ':actions'}) do
  audit(root .. stream, now, 'reset', ARGV[3], ARGV[4], what, 0, ARGV[2])
end
redis.call('PUBLISH', root .. ':wake', 'reset')
return found
