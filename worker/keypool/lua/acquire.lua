-- requires: prelude, buckets, reservations, waitlist, candidates
-- acquire: reserve one call with one key, now or within the horizon; or say when to ask again.
--
-- ARGV  2 lease id  3 model or ''  4 resource (model or from-domain)  5 tokens  6 of them the prompt's  7 of them
--       reserved for the answer  8 '1': the job names no cap for its answer, so an account with a smaller limit may
--       reserve less  9 emails (recipients)  10 horizon: how far ahead a call may be reserved, ms  11 patience: the
--       longest rest that jobs wait for in the process, ms  12 by (task id)  13 'bulk' or ''
--       14 wait list of the job's line, '' for none (for bulk jobs it ends in ' bulk')  15 the line
--       16 how long the job has waited, ms  17 the same for the next job in the line, '' if there is none
--       18 '1': the line is in the wait list  19 lease, ms  20 opening: calls in flight at first, limits being unknown
--       21 limits to use until an account's own are known, '' or as JSON: each [dimension, limit, window ms]
--       22 models that serve as well, in order of preference, '' or as JSON: each [model, resource]
--       then for each candidate its id and its account
-- Returns one of these lists:
--         'lease', index, wait_ms, spare emails (-1: no quota is known), tokens reserved for the answer,
--         '1' if the request must name them as its cap, which model (1: the first)
--         'wait', when to ask again (ms), reason, first possible start (ms) · 'busy', the same: limits are unknown yet
--         'resting', how long no key may be called (ms), reason · 'disabled', reason · 'unfit', reason
--         'too_large', limit, dimension · 'remap', id, account, …

local FEW, PLENTY, BEFORE = 2, 10, 22  -- candidates to choose from, head-room of one that is enough, arguments before

local lease_id, model_name, resource_name, tokens, input_tokens, output_tokens, flexible, emails, horizon_ms,
  patience_ms, by, bulk, wait_list, line, waited_ms, next_waited_ms, in_list, lease_ms, opening, first_limits, fallbacks
  = unpack(ARGV, 2, BEFORE)
local turn, count = read_clock('seq'), (#ARGV - BEFORE) / 2
local job = {by = by, bulk = bulk ~= '', flexible = flexible == '1', horizon_ms = tonumber(horizon_ms),
  opening = tonumber(opening), first_limits = first_limits ~= '' and cjson.decode(first_limits) or {},
  cost = {requests = 1, tokens = tonumber(tokens), input_tokens = tonumber(input_tokens),
  output_tokens = tonumber(output_tokens), emails = tonumber(emails)}}
local list, came_ms = wait_list ~= '' and root .. ':waiting:' .. wait_list, now - tonumber(waited_ms)

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', root .. ':leases', '-inf', now, 'LIMIT', 0, 16)) do
  local lease = drop_lease(expired)
  if lease then audit('audit', 'lease_expired', 'key', lease.key, 'not settled in time', 0, lease.by) end
end

-- Returns when to ask again, and notes it.
local function wait(kind, pause_ms, reason, first_ms)
  pause_ms = max(1, floor(pause_ms))
  if list then enter(list, line, came_ms, now + pause_ms) end
  return {kind, pause_ms, reason, first_ms}
end

local before, behind_ms = 0, nil
if list then before, behind_ms = lines_before(list, came_ms) end
if behind_ms then return wait('wait', behind_ms, 'earlier jobs come first', 0) end
-- Bulk jobs take what interactive ones leave.
if job.bulk and list and redis.call('ZCOUNT', list:sub(1, -#' bulk' - 1) .. ':due', now - LATE_MS, '+inf') > 0 then
  return wait('wait', FLIGHT_MS, 'interactive jobs come first', 0)
end

-- Hosts, models and accounts seldom rest: one command says whether any has a record at all.
local host, models, records = root .. ':host', {{model_name, resource_name}}, {}
for _, model in ipairs(fallbacks ~= '' and cjson.decode(fallbacks) or {}) do models[#models + 1] = model end
for index = 1, count do records[index] = root .. ':account:' .. ARGV[BEFORE + 2 * index] end
for _, model in ipairs(models) do records[#records + 1] = root .. ':model:' .. model[1] end
local any_rests = redis.call('EXISTS', host, root .. ':unfit', unpack(records)) > 0
local host_block, host_tries
if any_rests then host_block, host_tries = breaker(host, lease_id) end
local first = count > FEW and turn or 0
local remap, refusal = {'remap'}, {too_large = {0}}  -- refusal: why candidates cannot serve the job at all

-- Scores one candidate for a model; choice.best is the best so far.
local function consider(choice, index, model, resource)
  local id, account = ARGV[BEFORE + 2 * index - 1], ARGV[BEFORE + 2 * index]
  local key, block, resource_block = read_key(id, resource)
  if key[4] and key[4] ~= account then
    remap[#remap + 1], remap[#remap + 2] = id, key[4]
    return
  end
  local pair = choice.pairs[account] or read_pair(account, model, job, choice.shared, any_rests)
  choice.pairs[account] = pair
  block = later(block, pair.block)
  local candidate = score_candidate(pair, job, block, tonumber(key[5] or 0))
  candidate.index, candidate.id, candidate.leases = index, id, tonumber(key[6] or 0)
  if pair.unfit then refusal.unfit = pair.unfit
  elseif candidate.too_large then
    if candidate.too_large[1] > refusal.too_large[1] then refusal.too_large = candidate.too_large end
  elseif candidate.start_ms == NEVER then refusal[block == resource_block and 'unfit' or 'disabled'] = block.reason
  elseif candidate.soon and candidate.busy_ms then
    choice.busy_ms = min(choice.busy_ms or FLIGHT_MS, candidate.busy_ms)
  elseif is_better(candidate, choice.best) then choice.best = candidate end
end

-- Takes the first model that can be served now. If none can, the job waits for the one that opens first.
local best, which, model_tries, tried
for number, model in ipairs(models) do
  local model_block, tries
  if any_rests then model_block, tries = breaker(root .. ':model:' .. model[1], lease_id) end
  local choice = {pairs = {}, shared = later(host_block, model_block)}
  -- Of many candidates, the next one is enough if it may be called at once and is more than half full. So is the better
  -- of two if it may be called at once: it is nearly as good as the best of all.
  for looked = 0, count - 1 do
    local good = choice.best
    local at_once = good and good.soon and good.start_ms <= now and not good.pair.shunned
    if at_once and count > FEW and (looked >= FEW or good.headroom > PLENTY) then break end
    consider(choice, (first + looked) % count + 1, model[1], model[2])
  end
  if #remap > 1 then return remap end
  local open = choice.best
  if open and (open.soon or open.tries and not choice.busy_ms) then
    best, which, model_tries, tried = open, number, tries, not open.soon and open.tries or nil
    break
  end
  -- To ask a busy account again soon is better than a long wait at another, or a less preferred model.
  if choice.busy_ms then return wait('busy', choice.busy_ms, 'limits are not known yet', choice.busy_ms) end
  if open and (not best or open.start_ms < best.start_ms) then best = open end
end

if not best and refusal.disabled then return {'disabled', refusal.disabled} end
if not best and refusal.too_large[1] > 0 then return {'too_large', unpack(refusal.too_large)} end
if not best then return {refusal.unfit and 'unfit' or 'disabled', refusal.unfit or 'no key'} end
if not which then
  save_for(job, best)
  local first_ms, step_ms = best.start_ms - now, best.step_ms / count
  if best.rests_ms - now > tonumber(patience_ms) then return {'resting', first_ms, best.reason} end
  -- Asking again pays when several calls fit: they start when they would have started anyway.
  if list and step_ms > 0 then redis.call('SET', list .. ':step', step_ms, 'PX', STEP_KEPT_MS) end
  local pause_ms = max(first_ms - job.horizon_ms, job.horizon_ms / 4) + before * step_ms
  return wait('wait', min(LONGEST_MS, pause_ms), best.reason, first_ms)
end

if tried then best.start_ms = now end
local spare, took = reserve(best, job, tried)
if in_list == '1' and next_waited_ms ~= '' then enter(list, line, now - tonumber(next_waited_ms), now + LATE_MS)
elseif in_list == '1' then leave(list, line) end
-- Not its account: if it were kept without being learned, a configured one could never replace it.
local seq = redis.call('HINCRBY', root .. ':inflight', 'seq', 1)
if seq % 64 == 1 then redis.call('PEXPIRE', root .. ':inflight', STATE_TTL_MS) end
redis.call('HSET', root .. ':key:' .. best.id, 'used_ms', best.start_ms, 'seq', seq, 'in_flight', best.leases + 1)
redis.call('ZADD', root .. ':leases', best.start_ms + tonumber(lease_ms), lease_id)
save_lease(lease_id, {key = best.id, cost = best.pair.cost, start_ms = best.start_ms, by = by, took = took,
  tried = tried, tries = tried and best.tries})
if host_tries == 'this' then note_probe(host, lease_id) end
if model_tries == 'this' then note_probe(root .. ':model:' .. models[which][1], lease_id) end
return {'lease', best.index, best.start_ms - now, spare, best.pair.cost.output_tokens, best.pair.capped and '1' or '',
  which}
