-- requires: prelude, blocks, buckets, reservations, waitlist, candidates
-- acquire: reserve one call with one key, now or within the horizon; or return when to ask again.
-- ARGV  2 the job and 3 the terms of the pool, as JSON: see scripts.py; then for each candidate its id and its account
-- Returns what scripts.py parses; or 'remap', id, account, …: keys that belong to other accounts than assumed.

local FEW, PLENTY, BEFORE = 2, 10, 3  -- candidates to compare, head-room above which one is enough, arguments before

local job, terms, count = cjson.decode(ARGV[2]), cjson.decode(ARGV[3]), (#ARGV - BEFORE) / 2
local list = job.list and root .. ':waiting:' .. job.list
job.came_ms = now - job.waited_ms
for _, expired in ipairs(redis.call('ZRANGEBYSCORE', root .. ':leases', '-inf', now, 'LIMIT', 0, 16)) do
  local lease = drop_lease(expired)
  local why = lease and (lease.waits and 'not used in time' or 'not settled in time')
  if lease then audit('audit', 'lease_expired', 'key', lease.key, why, 0, lease.by) end
end

local function wait(kind, pause_ms, reason, first_ms)
  if list then enter(list, job.line, job.came_ms, now + pause_ms) end
  return {kind, pause_ms, reason, first_ms}
end

local before, behind_ms = lines_before(list, job.came_ms)
if behind_ms then return wait('wait', behind_ms, 'earlier jobs come first', 0) end
if job.bulk and list and redis.call('ZCOUNT', list:sub(1, -#' bulk' - 1) .. ':due', now - LATE_MS, '+inf') > 0 then
  return wait('wait', FLIGHT_MS, 'interactive jobs come first', 0)
end

local first = count > FEW and redis.call('HGET', counters, 'seq') or 0
local remap, refusal = {'remap'}, {}  -- refusal: why candidates cannot serve the job at all, by kind

-- Scores one candidate for a model, and keeps the best candidate so far in choice.best.
local function consider(choice, index, model, resource)
  local id, account = ARGV[BEFORE + 2 * index - 1], ARGV[BEFORE + 2 * index]
  local owner, seq, leases = unpack(redis.call('HMGET', root .. ':key:' .. id, 'account', 'seq', 'in_flight'))
  if owner and owner ~= account then
    remap[#remap + 1], remap[#remap + 2] = id, owner
    return
  end
  local pair = choice.pairs[account] or read_pair(account .. ':' .. model, job, terms)
  choice.pairs[account] = pair
  local block, probes = read_blocks_of(id, account, model, resource, job.lease, pair.cost.tokens)
  local candidate = score_candidate(pair, job, block, tonumber(seq or 0))
  candidate.index, candidate.id, candidate.leases, candidate.probes = index, id, tonumber(leases or 0), probes
  local small, largest = pair.buckets[candidate.reason], refusal.too_large
  if candidate.start_ms == NEVER and small then
    if not largest or small.limit > largest[2] then refusal.too_large = {'too_large', small.limit, candidate.reason} end
  elseif candidate.start_ms == NEVER then
    local kind = (block.kind == 'unfit' or block.kind == 'key_resource') and 'unfit' or 'disabled'
    refusal[kind] = {kind, block.reason}
  elseif candidate.soon and candidate.busy_ms then
    choice.busy_ms = min(choice.busy_ms or FLIGHT_MS, (before + 1) * candidate.busy_ms)
  elseif is_better(candidate, choice.best) then choice.best = candidate end
end

-- Takes the first model that can be served now. If there is none, the job waits for the model that opens first.
local best, which, tried
for number, model in ipairs(job.models) do
  local choice = {pairs = {}}
  -- If many keys may be called at once, the better of two is nearly as good as the best of all.
  for looked = 0, count - 1 do
    local good = choice.best
    local at_once = good and good.start_ms <= now and not good.pair.shunned
    if at_once and count > FEW and (looked >= FEW or good.headroom > PLENTY) then break end
    consider(choice, (first + looked) % count + 1, model[1], model[2])
  end
  if #remap > 1 then return remap end
  local open = choice.best
  if open and (open.soon or open.tries and not choice.busy_ms) then
    best, which, tried = open, number, not open.soon and open.tries or nil
    break
  end
  -- Asking a busy account again soon is better than a long wait for another one, or a less preferred model.
  if choice.busy_ms then return wait('busy', choice.busy_ms, 'limits are not known yet', choice.busy_ms) end
  if open and (not best or open.start_ms < best.start_ms) then best = open end
end
if not best then return refusal.disabled or refusal.too_large or refusal.unfit end
if not which then
  local first_ms, step_ms, rests = best.start_ms - now, best.step_ms / count, best.rests_ms - now > terms.patience_ms
  save_for(job, best, rests)
  if rests then return {'resting', first_ms, best.reason} end
  -- It is enough to ask again when several calls fit: none of them starts later because of that.
  if list and step_ms > 0 then redis.call('SET', list .. ':step', step_ms, 'PX', STEP_KEPT_MS) end
  local pause_ms = max(first_ms - job.horizon_ms, job.horizon_ms / 4) + before * step_ms
  return wait('wait', min(LONGEST_MS, pause_ms), best.reason, first_ms)
end

-- Charges the cost to all buckets, except to the one whose limit the call tries to exceed.
local pair, start_ms, spare, took = best.pair, tried and now or best.start_ms, NEVER, {}
for dimension, bucket in pairs(pair.buckets) do
  if bucket.saving and bucket.saving.by == job.by then bucket.saving = nil end
  if dimension == tried then bucket.credit, bucket.lent, bucket.tried_ms = bucket.credit - TRY_AFTER, nil, now
  else
    charge(bucket, cost_in(dimension, pair.cost), start_ms)
    took[dimension] = bucket.debt
  end
  if counts_emails(dimension) then spare = min(spare, max(0, floor(bucket.level))) end
end
save_buckets(pair.key, pair.buckets)
if job.listed and job.next_waited_ms then enter(list, job.line, now - job.next_waited_ms, now + LATE_MS)
elseif job.listed then leave(list, job.line) end
local seq = redis.call('HINCRBY', counters, 'seq', 1)
if seq % 64 == 1 then redis.call('PEXPIRE', counters, STATE_TTL_MS) end
redis.call('HSET', root .. ':key:' .. best.id, 'used_ms', start_ms, 'seq', seq, 'in_flight', best.leases + 1)
save_lease(job.lease, {key = best.id, pair = pair.key, cost = pair.cost, start_ms = start_ms, by = job.by, took = took,
  lasts_ms = terms.lease_ms, tried = tried, waits = start_ms > now or nil}, start_ms)
note_probes(best.probes, job.lease)
return {'lease', best.index, start_ms - now, spare < NEVER and spare or -1, pair.cost.output_tokens,
  pair.capped and '1' or '', which}
