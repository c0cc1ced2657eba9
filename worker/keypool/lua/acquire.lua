-- requires: prelude, buckets, reservations, waitlist, candidates
-- acquire: reserve one call with one key, now or within the horizon; or say when to ask again.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id  3 model or ''  4 resource (model or from-domain)
--       5 tokens  6 of them the prompt's  7 of them reserved for the answer  8 '1': the job names no cap for its
--       answer, so an account with a smaller limit may reserve less  9 emails (recipients)
--       10 horizon: how far ahead a call may be reserved, in ms  11 patience: the longest rest that is waited for in
--       the process, in ms  12 by (task id)  13 'bulk' or ''
--       14 wait list that the job's line stands in, '' for none (that of bulk jobs ends in ' bulk')  15 the line
--       16 for how long the job has waited, in ms  17 the same of the next job in the line, '' where there is none
--       18 '1' where the line is in the wait list  19 lease, in ms  20 opening (calls on their way while limits are
--       unknown)
--       21 what to go by until an account's own limits are known, '' or as JSON: each [dimension, limit, window ms]
--       22 models that serve as well, in order of preference, '' or as JSON: each [model, resource]
--       then of each candidate its id and its account
-- Returns one of these lists:
--         'lease', index, wait_ms, spare emails (-1: no quota is known), tokens reserved for the answer,
--         '1' where the request must name them as its cap, which model (1: the first)
--         'wait', when to ask again in ms, reason, until the first instant in ms · 'busy', the same: limits are not
--         known yet
--         'resting', how long no key may be called in ms, reason
--         'disabled', reason · 'unfit', reason · 'too_large', limit, dimension · 'remap', id, account, …

local A_FEW, BEFORE = 2, 22  -- keys that are looked at, words before the candidates

local _, lease_id, model_name, resource_name, tokens, input_tokens, output_tokens, flexible, emails, horizon_ms, patience_ms,
  by, bulk, wait_list, line, waited_ms, next_waited_ms, in_list, lease_ms, opening, first_limits, fallbacks
  = unpack(ARGV, 1, BEFORE)
local turn, count = read_clock('seq'), (#ARGV - BEFORE) / 2
local job = {by = by, bulk = bulk ~= '', flexible = flexible == '1', horizon_ms = tonumber(horizon_ms),
  opening = tonumber(opening), cost = {requests = 1, tokens = tonumber(tokens), input_tokens = tonumber(input_tokens),
  output_tokens = tonumber(output_tokens), emails = tonumber(emails)}}
local list, came_ms = wait_list ~= '' and root .. ':waiting:' .. wait_list, now - tonumber(waited_ms)

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', root .. ':leases', '-inf', now, 'LIMIT', 0, 16)) do
  local lease = end_lease(expired)
  if lease then audit('audit', 'lease_expired', 'key', lease.key, 'not settled in time', 0, lease.by) end
end

-- Says when to ask again, and notes it.
local function wait(kind, pause_ms, reason, first_ms)
  pause_ms = max(1, floor(pause_ms))
  if list then enter(list, line, came_ms, now + pause_ms) end
  return {kind, pause_ms, reason, first_ms}
end

local before, behind_ms = 0, nil
if list then before, behind_ms = lines_before(list, came_ms) end
if behind_ms then return wait('wait', behind_ms, 'earlier jobs come first', 0) end
-- Bulk takes what interactive jobs leave.
if job.bulk and list and redis.call('ZCOUNT', list:sub(1, -#' bulk' - 1) .. ':due', now - LATE_MS, '+inf') > 0 then
  return wait('wait', FLIGHT_MS, 'interactive jobs come first', 0)
end
if first_limits ~= '' then
  local buckets = {}
  for _, first in ipairs(cjson.decode(first_limits)) do buckets[first[1]] = new_bucket(unpack(first)) end
  job.first_limits = cmsgpack.pack(buckets)
end

-- Hosts, models and accounts seldom rest: one look says whether any has a record at all.
local host, unfit, records = root .. ':host', root .. ':unfit', {}
local models = {{model_name, resource_name}}
for _, one in ipairs(fallbacks ~= '' and cjson.decode(fallbacks) or {}) do models[#models + 1] = one end
for place = 1, count do records[place] = root .. ':account:' .. ARGV[BEFORE + 2 * place] end
for _, one in ipairs(models) do records[#records + 1] = root .. ':model:' .. one[1] end
local any_rests = redis.call('EXISTS', host, unfit, unpack(records)) > 0
local host_ms, host_reason, host_tries = 0, '', nil
if any_rests then host_ms, host_reason, host_tries = breaker(host, lease_id) end
local first, enough = 0, count
if count > A_FEW then first, enough = turn % count, A_FEW end
local remap = {'remap'}

-- Looks at one candidate for a model, and notes what it finds: the best one so far, or why it is none.
local function look(found, index, model, resource)
  local id, account = ARGV[BEFORE + 2 * index - 1], ARGV[BEFORE + 2 * index]
  local key = redis.call('HMGET', root .. ':key:' .. id, 'state', 'until_ms', 'reason', 'account', 'seq', 'in_flight',
    't:' .. resource)
  if key[4] and key[4] ~= account then
    remap[#remap + 1], remap[#remap + 2] = id, key[4]
    return
  end
  local pair_name, pair = account .. ':' .. model, found.pairs[account]
  if not pair then
    local unfit_ms, unfit_reason = 0, nil
    if any_rests then unfit_ms, unfit_reason = blocked_by_mark(redis.call('HGET', unfit, pair_name)) end
    pair = unfit_ms > 0 and {unfit = unfit_reason} or read_pair(root .. ':account_model:' .. pair_name,
      any_rests and records[index], job, found.rests_ms, found.reason)
    found.pairs[account] = pair
  end
  if pair.unfit then
    found.unfit = pair.unfit
    return
  end
  local resource_ms, resource_reason = blocked_by_mark(key[7])
  local until_ms, reason = blocked(key)
  until_ms, reason = later(until_ms, reason, pair.until_ms, pair.reason)
  until_ms, reason = later(resource_ms, resource_reason, until_ms, reason)
  local candidate = score_candidate(pair, job, until_ms, reason, tonumber(key[5] or 0))
  candidate.index, candidate.id, candidate.leases = index, id, tonumber(key[6] or 0)
  local flight_ms = candidate.soon and not candidate.paced and flight_wait_ms(pair) or 0
  if candidate.too_large then
    if candidate.too_large > (found.limit or 0) then
      found.limit, found.limit_of = candidate.too_large, candidate.too_large_in
    end
  elseif until_ms == NEVER then
    if resource_ms == NEVER then found.unfit = reason else found.disabled = reason end
  elseif flight_ms > 0 then
    found.busy_ms = min(found.busy_ms or FLIGHT_MS, flight_ms)
  elseif is_better(candidate, found.best) then
    found.best = candidate
  end
end

-- The first model that can be served now is taken; of those that cannot the one that opens first is waited for.
local best, which, model_tries, tried, limit, limit_of, unfit_reason, disabled
for place, model in ipairs(models) do
  local found, model_ms, model_reason, tries = {pairs = {}}, 0, '', nil
  if any_rests then model_ms, model_reason, tries = breaker(root .. ':model:' .. model[1], lease_id) end
  found.rests_ms, found.reason = later(host_ms, host_reason, model_ms, model_reason)
  -- A few keys, the next ones each time, are enough where one of them may be called at once: the better of two is
  -- nearly as good as the best of all.
  for looked = 1, count do
    local good = found.best
    if looked > enough and good and good.soon and good.start_ms <= now and not good.pair.shunned then break end
    look(found, (first + looked - 1) % count + 1, model[1], model[2])
  end
  if #remap > 1 then return remap end
  local open = found.best
  if open and (open.soon or open.tries and not found.busy_ms) then
    best, which, model_tries, tried = open, place, tries, not open.soon and open.tries or nil
    break
  end
  -- Asking a busy account again soon beats a long wait at another, and a model that is preferred less.
  if found.busy_ms then return wait('busy', found.busy_ms, 'limits are not known yet', found.busy_ms) end
  if open and (not best or open.start_ms < best.start_ms) then best = open end
  if found.limit and found.limit > (limit or 0) then limit, limit_of = found.limit, found.limit_of end
  unfit_reason, disabled = unfit_reason or found.unfit, disabled or found.disabled
end

if not best then
  if disabled or not limit and not unfit_reason then return {'disabled', disabled or 'no key'} end
  return limit and {'too_large', limit, limit_of} or {'unfit', unfit_reason}
end
if not which then
  save_for(job, best)
  local first_ms, step_ms = best.start_ms - now, best.step_ms / count
  if best.rests_ms - now > tonumber(patience_ms) then return {'resting', first_ms, best.reason} end
  -- It pays to ask when several calls fit: those that do go at the instants that they would have had anyway.
  if list and step_ms > 0 then redis.call('SET', list .. ':step', step_ms, 'PX', STEP_KEPT_MS) end
  local pause_ms = max(first_ms - job.horizon_ms, job.horizon_ms / 4) + before * step_ms
  return wait('wait', min(LONGEST_MS, pause_ms), best.reason, first_ms)
end

if tried then best.start_ms = now end
local spare, took = reserve(best, job, tried)
if in_list == '1' and next_waited_ms ~= '' then enter(list, line, now - tonumber(next_waited_ms), now + LATE_MS)
elseif in_list == '1' then leave(list, line) end
-- Not its account: only a learned one is kept there, or a configured one could never take its place.
local seq = redis.call('HINCRBY', root .. ':inflight', 'seq', 1)
if seq % 64 == 1 then redis.call('PEXPIRE', root .. ':inflight', STATE_TTL_MS) end
redis.call('HSET', root .. ':key:' .. best.id, 'used_ms', best.start_ms, 'seq', seq, 'in_flight', best.leases + 1)
redis.call('ZADD', root .. ':leases', best.start_ms + tonumber(lease_ms), lease_id)
save_lease(lease_id, {key = best.id, cost = best.pair.cost, start_ms = best.start_ms, by = by, took = took,
  tried = tried, tries = tried and best.tries})
if host_tries == 'this' then try_alone(host, lease_id) end
if model_tries == 'this' then try_alone(root .. ':model:' .. models[which][1], lease_id) end
return {'lease', best.index, best.start_ms - now, spare, best.pair.cost.output_tokens, best.pair.capped and '1' or '',
  which}
