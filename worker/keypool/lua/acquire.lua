-- acquire: reserve one call with one key, now or within the horizon; or say when to ask again.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id  3 model or ''  4 topic (model or from-domain)
--       5 tokens  6 of them the prompt's  7 of them reserved for the answer  8 '1': the job names no cap for its
--       answer, so an account with a smaller limit may reserve less  9 emails (recipients)
--       10 horizon: how far ahead a call may be reserved, in ms  11 patience: the longest rest that is waited for in
--       the process, in ms  12 by (task id)  13 'bulk' or ''
--       14 wait list that the job's line stands in, '' for none (that of bulk jobs ends in ' bulk')  15 the line
--       16 for how long the job has waited, in ms  17 the same of the next job in the line, '' where there is none
--       18 '1' where the line is in the wait list  19 lease, in ms  20 opening (calls on their way while limits are
--       unknown)
--       21 what to go by until an account's own limits are known, '' or as JSON: each [dimension, limit, window ms]
--       22 models that serve as well, in order of preference, '' or as JSON: each [model, topic]
--       then of each candidate its id and its account
-- Returns one of these lists:
--         'lease', index, wait_ms, spare emails (-1: no quota is known), tokens reserved for the answer,
--         '1' where the request must name them as its cap, which model (1: the first)
--         'wait', when to ask again in ms, reason, until the first instant in ms · 'busy', the same: limits are not
--         known yet
--         'resting', how long no key may be called in ms, reason
--         'disabled', reason · 'unfit', reason · 'too_large', limit, dimension · 'remap', id, account, …

local A_FEW, BEFORE = 2, 22  -- keys that are looked at, words before the candidates

local root = KEYS[1]
local given_ms, lease_id, model_name, topic_name, tokens, input_tokens, output_tokens, flexible, emails, horizon_ms,
  patience_ms, by, bulk, wait_list, line, waited_ms, next_waited_ms, in_list, lease_ms, opening, first_limits,
  fallbacks
  = unpack(ARGV, 1, BEFORE)
local leases, inflight, trail, wake = root .. ':leases', root .. ':inflight', root .. ':audit', root .. ':wake'
local now, turn = clock(given_ms, inflight, 'seq')
local count = (#ARGV - BEFORE) / 2
bulk, in_list = bulk ~= '', in_list == '1'
local cost = {requests = 1, tokens = tonumber(tokens), input_tokens = tonumber(input_tokens),
  output_tokens = tonumber(output_tokens), emails = tonumber(emails)}
local job = {cost = cost, flexible = flexible == '1', horizon_ms = tonumber(horizon_ms), by = by, bulk = bulk,
  opening = tonumber(opening), first_limits = ''}
local list = wait_list ~= '' and root .. ':waiting:' .. wait_list
local came_ms = now - tonumber(waited_ms)
local host, models = root .. ':host', {{model_name, topic_name}}
for _, one in ipairs(fallbacks ~= '' and cjson.decode(fallbacks) or {}) do models[#models + 1] = one end

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 16)) do
  local record = end_lease(root, expired)
  if record then audit(trail, now, 'lease_expired', 'key', record.key, 'not settled in time', 0, record.by) end
end

-- Says when to ask again, and notes it.
local function wait(kind, pause_ms, reason, first_ms)
  pause_ms = max(1, floor(pause_ms))
  if list then enter(list, line, came_ms, now + pause_ms) end
  return {kind, pause_ms, reason, first_ms}
end

local before, behind_ms = 0, nil
if list then before, behind_ms = lines_before(list, came_ms, wake, now) end
if behind_ms then return wait('wait', behind_ms, 'earlier jobs come first', 0) end
-- Bulk takes what interactive jobs leave.
if bulk and list and redis.call('ZCOUNT', list:sub(1, -#' bulk' - 1) .. ':due', now - LATE_MS, '+inf') > 0 then
  return wait('wait', FLIGHT_MS, 'interactive jobs come first', 0)
end
if first_limits ~= '' then
  local buckets = {}
  for _, first in ipairs(cjson.decode(first_limits)) do
    buckets[first[1]] = new_bucket(first[1], first[2], first[3], now)
  end
  job.first_limits = pack_buckets(buckets)
end

-- Hosts, models and accounts seldom rest: one look says whether any has a record at all.
local records = {host, root .. ':unfit'}
for at = 1, count do records[at + 2] = root .. ':account:' .. ARGV[BEFORE + 2 * at] end
for _, one in ipairs(models) do records[#records + 1] = root .. ':model:' .. one[1] end
local any_rests = redis.call('EXISTS', unpack(records)) > 0
local host_ms, host_reason, probes_host = 0, '', false
if any_rests then host_ms, host_reason, probes_host = breaker(host, lease_id, now) end
local first, enough = 0, count
if count > A_FEW then first, enough = turn % count, A_FEW end
local remap = {'remap'}

-- The best candidate for a model, and what was met on the way to it.
local function look(model, topic)
  local found, scopes, shared_ms, shared_reason = {}, {}, host_ms, host_reason
  if any_rests then
    local model_ms, model_reason
    model_ms, model_reason, found.probes = breaker(root .. ':model:' .. model, lease_id, now)
    shared_ms, shared_reason = later(host_ms, host_reason, model_ms, model_reason)
  end
  -- A few keys, the next ones each time, are enough where one of them may be called at once: the better of two is
  -- nearly as good as the best of all.
  local best
  for looked = 1, count do
    if looked > enough and best and best.now and best.start_ms <= now and not best.scope.shunned then break end
    local index = (first + looked - 1) % count + 1
    local id, account = ARGV[BEFORE + 2 * index - 1], ARGV[BEFORE + 2 * index]
    local key_name = root .. ':key:' .. id
    local key = redis.call('HMGET', key_name, 'account', 'state', 'until_ms', 'reason', 'seq', 't:' .. topic)
    if key[1] and key[1] ~= account then
      remap[#remap + 1], remap[#remap + 2] = id, key[1]
    else
      local pair_name, scope = account .. ':' .. model, scopes[account]
      if not scope then
        local mark = any_rests and unfit_for(root, pair_name, now)
        scope = mark and {unfit = mark} or read_scope(any_rests and records[index + 2],
          root .. ':account_model:' .. pair_name, job, shared_ms, shared_reason, now)
        scopes[account] = scope
      end
      if scope.unfit then
        found.unfit = scope.unfit
      else
        local topic_ms, topic_reason = blocked_topic(key[6], now)
        local until_ms, reason = blocked(key[2], key[3], key[4], now)
        until_ms, reason = later(until_ms, reason, scope.until_ms, scope.reason)
        until_ms, reason = later(topic_ms, topic_reason, until_ms, reason)
        local open = weigh(scope, job, now, until_ms, reason, tonumber(key[5]) or 0)
        open.index, open.id, open.key_name = index, id, key_name
        local flight_ms = open.now and not open.paced and flight_wait_ms(scope, now)
        if open.too_large then
          if open.too_large > (found.limit or 0) then
            found.limit, found.limit_of = open.too_large, open.too_large_in
          end
        elseif open.disabled then
          if topic_ms < 0 then found.unfit = open.reason else found.disabled = open.reason end
        elseif flight_ms and flight_ms > 0 then
          found.busy_ms = min(found.busy_ms or FLIGHT_MS, flight_ms)
        elseif better(open, best) then
          best = open
        end
      end
    end
  end
  found.best = best
  return found
end

-- The first model that can be served now is taken; of those that cannot the one that opens first is waited for.
local best, which, probes_model, tried, limit, limit_of, unfit, disabled
for place, model in ipairs(models) do
  local found = look(model[1], model[2])
  if #remap > 1 then return remap end
  local open = found.best
  if open and open.now then
    best, which, probes_model = open, place, found.probes
    break
  end
  -- Asking a busy account again soon beats a long wait at another, and a model that is preferred less.
  if found.busy_ms then return wait('busy', found.busy_ms, 'limits are not known yet', found.busy_ms) end
  if open and open.tries then
    best, which, probes_model, tried = open, place, found.probes, open.tries
    break
  end
  if open and (not best or open.start_ms < best.start_ms) then best = open end
  if found.limit and found.limit > (limit or 0) then limit, limit_of = found.limit, found.limit_of end
  unfit, disabled = unfit or found.unfit, disabled or found.disabled
end

if not best and limit and not disabled then return {'too_large', limit, limit_of} end
if not best and unfit and not disabled then return {'unfit', unfit} end
if not best then return {'disabled', disabled or 'no key'} end
if not which then
  save_for(job, best, now)
  local first_ms = best.start_ms - now
  if best.rests_ms - now > tonumber(patience_ms) then return {'resting', first_ms, best.reason} end
  -- It pays to ask when several calls fit: those that do go at the instants that they would have had anyway.
  local step_ms = best.step_ms / count
  if list and step_ms > 0 then redis.call('SET', list .. ':step', step_ms, 'PX', STEP_KEPT_MS) end
  local pause_ms = max(first_ms - job.horizon_ms, job.horizon_ms / 4) + before * step_ms
  return wait('wait', min(LONGEST_MS, pause_ms), best.reason, first_ms)
end

if tried then best.start_ms = now end
local spare, dimensions = take(best, job, now, tried)
if in_list and next_waited_ms ~= '' then enter(list, line, now - tonumber(next_waited_ms), now + LATE_MS)
elseif in_list then leave(list, line) end
-- Not its account: only a learned one is kept there, or a configured one could never take its place.
local seq = redis.call('HINCRBY', inflight, 'seq', 1)
redis.call('HSET', best.key_name, 'used_ms', best.start_ms, 'seq', seq)
if seq % 64 == 1 then redis.call('PEXPIRE', inflight, STATE_TTL_MS) end
redis.call('HINCRBY', inflight, 'key:' .. best.id, 1)
redis.call('ZADD', leases, best.start_ms + tonumber(lease_ms), lease_id)
redis.call('HSET', root .. ':leased', lease_id, cmsgpack.pack({key = best.id, cost = best.scope.cost,
  start_ms = best.start_ms, by = by, left = best.left, dims = dimensions, debts = best.debts, tried = tried or nil,
  tries = tried and best.tries or nil}))
if probes_host then try_alone(host, lease_id, now) end
if probes_model then try_alone(root .. ':model:' .. models[which][1], lease_id, now) end
return {'lease', best.index, best.start_ms - now, spare, best.scope.cost.output_tokens,
  best.scope.capped and '1' or '', which}
