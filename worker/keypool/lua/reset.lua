-- requires: prelude, buckets
-- reset: clear cooldowns and disabled marks of the given records, and wake the jobs that wait. What a refusal had taken
-- out of a bucket for a rest comes back; learned quotas are forgotten, and calls beyond other limits may be tried at
-- once. What calls have reserved stays reserved. Keys that a person disabled stay disabled, unless they are included.
--
-- KEYS  2 … the records of keys, accounts, account × models, models, host
-- ARGV  2 by  3 scope (service or key)  4 name (service or key id)  5 '1': bring back what a person disabled, too
-- Returns the blocks that it met, each [index of its record from 1 on, resource or '', 'cooling' | 'disabled' |
-- 'unfit',
-- reason, the person who disabled it or '', 1: cleared | 0: left disabled].

local KNOWN_MS = 20000  -- what a refusal has just shown need not be tried

read_clock()
local found, cleared, unfit, accounts = {}, 0, read_hash(root .. ':unfit'), root .. ':account:'

local function note(index, resource, block, person, is_unfit)
  if not block then return end
  local state = is_unfit and 'unfit' or block.until_ms == NEVER and 'disabled' or 'cooling'
  local stays = person and ARGV[5] ~= '1'
  if not stays then cleared = cleared + 1 end
  found[#found + 1] = {index - 1, resource, state, block.reason, person or '', stays and 0 or 1}
end

local function clear_marks(index, hash, marks, start, is_unfit)
  for field, packed in pairs(marks) do
    if field:sub(1, #start) == start then
      note(index, field:sub(#start + 1), blocked_by_mark(packed), nil, is_unfit)
      redis.call('HDEL', hash, field)
    end
  end
end

for index = 2, #KEYS do
  local key, record = KEYS[index], read_hash(KEYS[index])
  local account = key:sub(1, #accounts) == accounts and key:sub(#accounts + 1)
  if account then clear_marks(index, root .. ':unfit', unfit, account .. ':', true) end
  note(index, '', blocked({record.state, record.until_ms, record.reason}), record.person)
  clear_marks(index, key, record, 't:')
  local buckets = read_buckets(record.buckets, record.limits)
  for dimension, bucket in pairs(buckets) do
    local held = bucket.held
    if held and held.until_ms > now then bucket.level = min(bucket.limit, bucket.level + held.amount) end
    bucket.held, bucket.pace = nil, 1
    if now - bucket.corrected_ms > KNOWN_MS then bucket.credit = TRY_AFTER end
    if bucket.learned_ms then buckets[dimension] = nil end
  end
  if record.buckets or record.limits then save_buckets(key, buckets) end
  if not record.person or ARGV[5] == '1' then
    redis.call('HDEL', key, 'state', 'until_ms', 'since_ms', 'reason', 'by', 'person', 'from_tokens', 'faults',
      'probe_ms', 'probe_by')
  end
end

local what = cleared .. ' cleared' .. (#found > cleared and ', ' .. #found - cleared .. ' left disabled' or '')
audit('actions', 'reset', ARGV[3], ARGV[4], what, 0, ARGV[2])
redis.call('PUBLISH', root .. ':wake', 'reset')
return found
