-- Stands before acquire: when a candidate may be called, how good it is, and which of two is better.

-- While no rate is known, only few calls may be on their way at once: what is on its way when a limit is reached is
-- refused together. A refusal comes fast, so a call that is older than FLIGHT_MS will not be refused any more.
local FLIGHT_MS = 250
local LONG_WINDOW_MS = 60000  -- what refills over a longer time than this is waited for outside the process
local SAVING_LOST_MS = 30000  -- a large job that is so late does not come back
local SHUNNED_MS = 3600000    -- so long an account that turned a request down comes last, unless it serves one before
local TRY_LOST_MS = 60000     -- a call beyond a limit that has not ended by then never will

-- Of two blocks the one that counts: what is disabled, else what opens later.
local function later(until_ms, reason, other_ms, other_reason)
  if until_ms < 0 or other_ms >= 0 and until_ms >= other_ms then return until_ms, reason end
  return other_ms, other_reason
end

-- What a call costs at an account. Where the job names no cap for its answer, no more is reserved for it than the
-- account allows in a minute, and a little less, since it will never find the bucket quite full. Also says whether the
-- request must
-- name that as its cap: the provider would reserve more than it allows.
local function cost_at(buckets, job)
  local cost, otpm = job.cost, buckets.otpm
  local most = otpm and max(1, floor(0.98 * otpm.limit))
  if not job.flexible or not most then return cost, false end
  if cost.output_tokens <= most then return cost, otpm.capped or false end
  return {requests = cost.requests, emails = cost.emails, input_tokens = cost.input_tokens, output_tokens = most,
    tokens = cost.tokens - cost.output_tokens + most}, true
end

-- What holds for every key of an account, and for this model: when it opens, and its buckets as text.
local function read_scope(account_key, pair_key, job, shared_ms, shared_reason, now_ms)
  local pair = redis.call('HMGET', pair_key, 'state', 'until_ms', 'reason', 'limits', 'window', 'flying', 'from_tokens',
    'turned_ms')
  local buckets = buckets_of(pair[4] or job.first_limits)
  local cost, capped = cost_at(buckets, job)
  local until_ms, reason = blocked_from(pair[7], cost.tokens, blocked(pair[1], pair[2], pair[3], now_ms))
  until_ms, reason = later(until_ms, reason, shared_ms, shared_reason)
  if account_key then
    local owner = redis.call('HMGET', account_key, 'state', 'until_ms', 'reason')
    local owner_ms, owner_reason = blocked(owner[1], owner[2], owner[3], now_ms)
    until_ms, reason = later(owner_ms, owner_reason, until_ms, reason)
  end
  return {pair_key = pair_key, buckets = buckets, cost = cost, capped = capped, until_ms = until_ms, reason = reason,
    window = tonumber(pair[5]) or job.opening, flying = unpacked(pair[6]),
    shunned = now_ms - (tonumber(pair[8]) or -SHUNNED_MS) < SHUNNED_MS}
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

-- Whether a call beyond a limit may be tried now.
local function may_try(dimension, bucket, now_ms)
  local credit = bucket.credit or 0
  if bucket.log or counts_emails(dimension) then return false end
  return credit >= TRY_AFTER or credit < 0 and now_ms + credit > TRY_LOST_MS
end

-- What is in a bucket for a job, and how fast it refills for it. Half of what refills is saved for a large job that
-- waits for its tokens; the other half lets smaller ones pass. Interactive jobs do not see what a bulk job saves.
local function free_in(bucket, job, now_ms)
  local level, rate, saving = level_at(bucket, now_ms), rate_of(bucket), bucket.saving
  if not saving or saving.by == job.by or saving.bulk and not job.bulk then return level, rate end
  if saving.due_ms + SAVING_LOST_MS < now_ms then
    bucket.saving = nil
    return level, rate
  end
  local saved = min(saving.need, (now_ms - saving.since_ms) * rate / 2)
  return level - saved, saved < saving.need and rate / 2 or rate
end

-- A candidate: when it may be called, in which dimension that takes longest, how long that one takes to refill for such
-- a call, until when it rests or waits for what refills over a long time, in which dimension alone a call beyond the
-- limit would be and may be tried, the limit that the call is too large for, whether a request limit is known, the
-- head-room.
-- until_ms, reason: what blocks the candidate for the longest. seq: the greater, the later it was used.
local function weigh(scope, job, now_ms, until_ms, reason, seq)
  local open = {start_ms = now_ms, reason = '', step_ms = 0, rests_ms = max(now_ms, until_ms), scope = scope,
    seq = seq}
  local short, headroom = 0, 1
  for dimension, bucket in pairs(scope.buckets) do
    local needed, level, rate = cost_in(dimension, scope.cost), free_in(bucket, job, now_ms)
    local ready = ready_ms(bucket, needed, now_ms, level, rate)
    if ready > now_ms then
      local may = may_try(dimension, bucket, now_ms)
      if needed > bucket.limit and not may and bucket.limit > (open.too_large or 0) then
        open.too_large, open.too_large_in = bucket.limit, dimension
      end
      short = short + 1
      open.tries = short == 1 and may and dimension or nil
      if ready > open.start_ms then
        open.start_ms, open.reason, open.step_ms = ready, dimension, needed / rate
      end
      if bucket.window_ms > LONG_WINDOW_MS then open.rests_ms = max(open.rests_ms, ready) end
    end
    headroom = min(headroom, bucket.log and headroom_of(bucket, now_ms) or level / bucket.limit)
    open.paced = open.paced or dimension == 'rpm' or dimension == 'rps'
  end
  if until_ms < 0 then
    open.disabled, open.reason = true, reason
  elseif until_ms > now_ms then
    open.tries = nil
    if until_ms >= open.start_ms then open.start_ms, open.reason = until_ms, reason end
  end
  open.now = open.start_ms - now_ms <= job.horizon_ms
  -- An account that nothing is known of is no better than one that serves.
  open.headroom = floor(headroom * (open.paced and 20 or 10))
  return open
end

local function better(open, best)
  if not best or open.now ~= best.now then return not best or open.now end
  if open.now and open.scope.shunned ~= best.scope.shunned then return best.scope.shunned end
  if open.start_ms ~= best.start_ms then return open.start_ms < best.start_ms end
  if open.headroom ~= best.headroom then return open.headroom > best.headroom end
  return open.seq < best.seq
end

-- Saves for a large job that has to wait for its tokens; small ones would take what it waits for each time. One job
-- saves at a time, an interactive one before a bulk one.
local function save_for(job, open, now_ms)
  if job.by == '' or open.start_ms - now_ms <= job.horizon_ms then return end
  local buckets, saves = open.scope.buckets, false
  for dimension, bucket in pairs(buckets) do
    local needed, saving = cost_in(dimension, open.scope.cost), bucket.saving
    local need = needed + margin_of(bucket.limit, bucket.window_ms, needed)
    local others = saving and saving.by ~= job.by and (job.bulk or not saving.bulk)
    local large = counts_tokens(dimension) and needed > job.horizon_ms * rate_of(bucket)
    if large and not others and level_at(bucket, now_ms) < need then
      -- Of what is there now smaller jobs may take as much as it lacks.
      local saved = max(0, 2 * level_at(bucket, now_ms) - need)
      local since_ms = now_ms - 2 * saved / rate_of(bucket)
      if saving and saving.by == job.by then since_ms = saving.since_ms end
      bucket.saving = {by = job.by, bulk = job.bulk, need = need, since_ms = since_ms, due_ms = open.start_ms}
      saves = true
    end
  end
  if saves then save_buckets(open.scope.pair_key, buckets) end
end

-- Takes what a call costs out of its account's buckets, except for the one whose limit it tries, and notes its start
-- where no rate is known. Returns how many more emails may go along (-1: no quota is known), and out of which
-- dimensions it took.
local function take(open, job, now_ms, tried)
  local scope, fields, spare, dimensions = open.scope, {}, -1, ''
  for dimension, bucket in pairs(scope.buckets) do
    if bucket.saving and bucket.saving.by == job.by then bucket.saving = nil end
    if dimension == tried then
      open.tries, bucket.credit = max(0, (bucket.credit or 0) - TRY_AFTER), -now_ms
    else
      charge(bucket, cost_in(dimension, scope.cost), open.start_ms, now_ms)
      dimensions = dimensions .. ' ' .. dimension
      if (bucket.debt or 0) > 0 then open.debts = open.debts or {} open.debts[dimension] = bucket.debt end
    end
    if counts_emails(dimension) then
      local left = max(0, floor(level_at(bucket, now_ms)))
      spare = spare < 0 and left or min(spare, left)
    end
  end
  if open.start_ms <= now_ms then open.left = depart(scope.buckets, now_ms) end
  if next(scope.buckets) then fields = {'limits', pack_buckets(scope.buckets)} end
  if not open.paced then
    table.insert(scope.flying, open.start_ms)
    fields[#fields + 1], fields[#fields + 2] = 'flying', cmsgpack.pack(scope.flying)
  end
  -- Where nothing is new in the record, an earlier settle has said how long it stays.
  if redis.call('HSET', scope.pair_key, unpack(fields)) > 0 then
    redis.call('PEXPIRE', scope.pair_key, STATE_TTL_MS)
  end
  return spare, dimensions
end
