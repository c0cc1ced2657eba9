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

-- What holds for every key of an account, and for this model: when it opens, and its buckets.
local function read_scope(account_key, pair_key, opening, shared_ms, shared_reason, now_ms)
  local owner = redis.call('HMGET', account_key, 'state', 'until_ms', 'reason')
  local pair = redis.call('HMGET', pair_key, 'state', 'until_ms', 'reason', 'buckets', 'window', 'flying')
  local scope = {pair_key = pair_key, buckets = buckets_of(pair[4]), window = tonumber(pair[5]) or opening,
    flying = buckets_of(pair[6])}
  local pair_ms, pair_reason = blocked(pair[1], pair[2], pair[3], now_ms)
  pair_ms, pair_reason = later(pair_ms, pair_reason, shared_ms, shared_reason)
  local owner_ms, owner_reason = blocked(owner[1], owner[2], owner[3], now_ms)
  scope.until_ms, scope.reason = later(owner_ms, owner_reason, pair_ms, pair_reason)
  for _, bucket in pairs(scope.buckets) do
    if bucket.promised or bucket.bulk or bucket.claims or bucket.bulk_claims then forget_the_lost(bucket, now_ms) end
  end
  return scope
end

-- How long until one more call may be on its way: 0 now. Also forgets the calls that are older.
local function flight_wait_ms(scope, now_ms)
  local young = {}
  for _, start_ms in ipairs(scope.flying) do
    if start_ms + FLIGHT_MS > now_ms then young[#young + 1] = start_ms end
  end
  table.sort(young)
  scope.flying = young
  local oldest = young[#young - math.floor(scope.window) + 1]
  return oldest and oldest + FLIGHT_MS - now_ms or 0
end

local function take_off(scope, start_ms)
  table.insert(scope.flying, start_ms)
  redis.call('HSET', scope.pair_key, 'flying', cmsgpack.pack(scope.flying))
  redis.call('PEXPIRE', scope.pair_key, STATE_TTL_MS)
end

-- until_ms, reason: what blocks the candidate for the longest.
local function weigh(scope, job, now_ms, until_ms, reason)
  local open = {earliest_ms = now_ms, reason = '', headroom = 1, paced = false}
  if until_ms < 0 then open.disabled, open.reason = true, reason return open end
  if until_ms > now_ms then open.earliest_ms, open.reason = until_ms, reason end
  local patience = not job.bulk and job.max_wait or open.earliest_ms > now_ms and 0
    or math.min(job.max_wait, bulk_patience(scope, job, now_ms))
  for dimension, bucket in pairs(scope.buckets) do
    local needed = cost_in(dimension, job.cost)
    if needed > bucket.limit then open.too_large = math.max(open.too_large or 0, bucket.limit) end
    local level, rate = free_in(bucket, job, now_ms)
    local ready = ready_ms(bucket, needed, now_ms, level, rate)
    if ready > open.earliest_ms then open.earliest_ms, open.reason = ready, dimension end
    open.headroom = math.min(open.headroom, bucket.log and headroom_of(bucket, now_ms) or level / bucket.limit)
    open.paced = open.paced or dimension == 'rpm' or dimension == 'rps'
  end
  open.queue_ms = behind(open, scope, job, job.bulk and BOTH_LINES or INTERACTIVE_LINE)
  open.start_ms = job.ticket == '' and open.queue_ms or job.bulk and behind(open, scope, job, INTERACTIVE_LINE)
    or open.earliest_ms
  open.now = open.start_ms - now_ms <= patience
  open.headroom = math.floor(open.headroom * 20)
  return open
end

local function better(open, best)
  if not best or open.now ~= best.now then return not best or open.now end
  if open.start_ms ~= best.start_ms then return open.start_ms < best.start_ms end
  if open.headroom ~= best.headroom then return open.headroom > best.headroom end
  return open.seq < best.seq
end
