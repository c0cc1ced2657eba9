-- Stands before acquire, behind lines: how good a candidate is, and which of two is better.

-- While no rate is known, only few calls may be on their way at once: what is on its way when a limit is reached is
-- refused together. A refusal comes fast, so a call that is older than FLIGHT_MS will not be refused any more.
local FLIGHT_MS = 250

-- Of two blocks the one that counts: what is disabled, else what opens later.
local function later(until_ms, reason, other_ms, other_reason)
  if until_ms < 0 or other_ms >= 0 and until_ms >= other_ms then return until_ms, reason end
  return other_ms, other_reason
end

-- A host or model that failed several times in a row rests, and is then tried by one job before the others.
-- Returns until when it blocks, why, and whether this job would be the one that tries.
local function breaker(scope_key, now_ms)
  local record = redis.call('HMGET', scope_key, 'state', 'until_ms', 'reason', 'faults', 'probe_ms')
  local until_ms, reason = blocked(record[1], record[2], record[3], now_ms)
  if until_ms ~= 0 or (tonumber(record[4]) or 0) < BREAKER_FAULTS then return until_ms, reason, false end
  local probe_ms = tonumber(record[5]) or 0
  if probe_ms > now_ms then return probe_ms, record[3] or 'probing', false end
  return 0, '', true
end

-- Until when an account rests. Few ever do: one look says whether any of those asked for has a record at all.
local function resting_accounts(root, accounts)
  local names = {}
  for place, account in ipairs(accounts) do names[place] = root .. ':account:' .. account end
  return redis.call('EXISTS', unpack(names)) > 0
end

-- What holds for every key of an account, and for this model: when it opens, and its buckets.
local function read_scope(account_key, pair_key, opening, shared_ms, shared_reason, now_ms)
  local pair = redis.call('HMGET', pair_key, 'state', 'until_ms', 'reason', 'buckets', 'window', 'flying')
  local until_ms, reason = blocked(pair[1], pair[2], pair[3], now_ms)
  until_ms, reason = later(until_ms, reason, shared_ms, shared_reason)
  if account_key then
    local owner = redis.call('HMGET', account_key, 'state', 'until_ms', 'reason')
    local owner_ms, owner_reason = blocked(owner[1], owner[2], owner[3], now_ms)
    until_ms, reason = later(owner_ms, owner_reason, until_ms, reason)
  end
  local buckets, promised = buckets_of(pair[4]), false
  for _, bucket in pairs(buckets) do
    if bucket.promised or bucket.bulk or bucket.claims or bucket.bulk_claims then
      forget_the_lost(bucket, now_ms)
      promised = true
    end
  end
  return {pair_key = pair_key, buckets = buckets, promised = promised, until_ms = until_ms, reason = reason,
    window = tonumber(pair[5]) or opening, flying = buckets_of(pair[6])}
end

-- How long until one more call may be on its way: 0 now. Also forgets the calls that are older.
local function flight_wait_ms(scope, now_ms)
  local young = {}
  for _, start_ms in ipairs(scope.flying) do
    if start_ms + FLIGHT_MS > now_ms then young[#young + 1] = start_ms end
  end
  table.sort(young)
  scope.flying = young
  local oldest = young[#young - floor(scope.window) + 1]
  return oldest and oldest + FLIGHT_MS - now_ms or 0
end

-- until_ms, reason: what blocks the candidate for the longest. seq: the greater, the later it was used.
-- This runs for each key of each call, so the usual case (a bucket without log, promises and claims) is kept short.
local function weigh(scope, job, now_ms, until_ms, reason, seq)
  if until_ms < 0 then return {disabled = true, reason = reason} end
  local earliest_ms, headroom, paced, too_large = max(now_ms, until_ms), 1, false, nil
  local patience = not job.bulk and job.max_wait or earliest_ms > now_ms and 0
    or min(job.max_wait, bulk_patience(scope, job, now_ms))
  for dimension, bucket in pairs(scope.buckets) do
    local needed, limit = cost_in(dimension, job.cost), bucket.limit
    if needed > limit then too_large = max(too_large or 0, limit) end
    local level, rate = free_in(bucket, job, now_ms)
    local ready = ready_ms(bucket, needed, now_ms, level, rate)
    if ready > earliest_ms then earliest_ms, reason = ready, dimension end
    headroom = min(headroom, bucket.log and headroom_of(bucket, now_ms) or level / limit)
    paced = paced or dimension == 'rpm' or dimension == 'rps'
  end
  local queue_ms, start_ms = earliest_ms, earliest_ms
  if scope.promised then
    queue_ms = behind(earliest_ms, scope, job, job.bulk and BOTH_LINES or INTERACTIVE_LINE)
    if job.ticket == '' then start_ms = queue_ms
    elseif job.bulk then start_ms = behind(earliest_ms, scope, job, INTERACTIVE_LINE) end
  end
  return {earliest_ms = earliest_ms, reason = reason, paced = paced, too_large = too_large, queue_ms = queue_ms,
    start_ms = start_ms, now = start_ms - now_ms <= patience, headroom = floor(headroom * 20), seq = seq, scope = scope}
end

local function better(open, best)
  if not best or open.now ~= best.now then return not best or open.now end
  if open.start_ms ~= best.start_ms then return open.start_ms < best.start_ms end
  if open.headroom ~= best.headroom then return open.headroom > best.headroom end
  return open.seq < best.seq
end

-- Takes what a call costs out of its account's buckets, and notes its start where no rate is known.
local function take(open, job, now_ms)
  local scope, fields = open.scope, {}
  if next(scope.buckets) then
    charge_all(scope.buckets, job.cost, open.start_ms, now_ms)
    fields = {'buckets', cmsgpack.pack(scope.buckets)}
  end
  if not open.paced then
    table.insert(scope.flying, open.start_ms)
    fields[#fields + 1], fields[#fields + 2] = 'flying', cmsgpack.pack(scope.flying)
  end
  -- Where nothing is new in the record, an earlier settle has said how long it stays.
  if redis.call('HSET', scope.pair_key, unpack(fields)) > 0 then
    redis.call('PEXPIRE', scope.pair_key, STATE_TTL_MS)
  end
end
