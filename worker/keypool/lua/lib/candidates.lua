-- Scores candidates: when a candidate (a key, its account and a model) may be called, and which of two is better.

-- Jobs wait outside their process for limits with longer windows, and for a host or model with so many faults in a row.
local LONG_WINDOW_MS, DOWN_FAULTS = 60000, 7
local SAVING_LOST_MS = 30000  -- a large job that is so late is taken for lost
local SHUNNED_MS = 3600000    -- how long an account that turned a request down comes last, if it serves none meanwhile
local SAME_REST_MS = 1000     -- if a refusal's rest ends so soon after the bucket has room, the limit is the reason

-- Returns the buckets of `name` (account and model) and a job's `cost` there. A flexible job reserves at most 98 % of
-- the limit of output tokens, because a bucket is seldom full. If `capped`, its request must state them as its cap.
local function read_pair(name, job, terms)
  local key = root .. ':account_model:' .. name
  local buckets, turned_ms = read_buckets(key)
  for _, limit in ipairs(terms.limits) do buckets[limit[1]] = buckets[limit[1]] or new_bucket(unpack(limit)) end
  if buckets.rpm or buckets.rps then buckets.ramp = nil
  else buckets.ramp = buckets.ramp or new_bucket('ramp', terms.opening, FLIGHT_MS - WINDOW_MARGIN_MS) end
  local pair = {key = key, buckets = buckets, cost = job.cost, shunned = now - tonumber(turned_ms or 0) < SHUNNED_MS}
  if job.flexible and buckets.otpm then
    local cost, less = job.cost, max(0, job.cost.output_tokens - max(1, floor(0.98 * buckets.otpm.limit)))
    pair.capped = buckets.otpm.capped or less > 0
    pair.cost = {requests = 1, input_tokens = cost.input_tokens, output_tokens = cost.output_tokens - less,
      tokens = cost.tokens - less}
  end
  return pair
end

-- Returns what a bucket has for a job, and how fast it refills for it: half as fast while a large job saves tokens.
local function free_in(bucket, job)
  local level, rate, saving = bucket.level, rate_of(bucket), bucket.saving
  if saving and (saving.until_ms or 0) < now then bucket.saving, saving = nil, nil end
  if not saving or saving.by == job.by or saving.bulk and not job.bulk then return level, rate end
  local saved = min(saving.need, (now - saving.since_ms) * rate / 2)
  return level - saved, saved < saving.need and rate / 2 or rate
end

-- Returns a candidate. start_ms: when it may be called; reason: its block until then, or the dimension that takes
-- longest; step_ms: how long that dimension takes to refill for one call; rests_ms: when its rest and its waits for
-- long windows are over; tries: the only dimension whose limit the call would exceed, if it may try; busy_ms: how long
-- too many calls are in flight. A limit that is smaller than the call never has room for it.
local function score_candidate(pair, job, block, seq)
  local headroom, candidate = 1, {start_ms = now, reason = '', step_ms = 0, rests_ms = now, pair = pair, seq = seq}
  for dimension, bucket in pairs(pair.buckets) do
    local needed, level, rate = cost_in(dimension, pair.cost), free_in(bucket, job)
    local ready = ready_ms(bucket, needed, level, rate)
    if dimension == 'ramp' then candidate.busy_ms = ready > now and ready - now or nil
    else headroom = min(headroom, level / bucket.limit) end
    if dimension ~= 'ramp' and ready > now then
      local may_try = bucket.credit >= (bucket.lent and 0 or TRY_AFTER)
        and not (bucket.stated or bucket.log or counts_emails(dimension))
      if needed > bucket.limit and not may_try then ready = NEVER end
      candidate.tries = candidate.reason == '' and may_try and dimension or nil
      if ready > candidate.start_ms then
        candidate.start_ms, candidate.reason, candidate.step_ms = ready, dimension, needed / rate
      end
      if bucket.window_ms > LONG_WINDOW_MS then candidate.rests_ms = max(candidate.rests_ms, ready) end
    end
  end
  if block then
    local left_ms = (block.faults or 0) < DOWN_FAULTS and block.until_ms or now + LONG_WINDOW_MS
    candidate.tries, candidate.rests_ms = nil, max(candidate.rests_ms, left_ms)
    if block.until_ms > candidate.start_ms then
      local same = block.reason == 'rate_limit' and block.until_ms <= candidate.start_ms + SAME_REST_MS
      if candidate.reason == '' or not same then candidate.reason = block.reason end
      candidate.start_ms = block.until_ms
    end
  end
  candidate.soon = candidate.start_ms - now <= job.horizon_ms
  candidate.headroom = floor(headroom * (pair.buckets.ramp and 10 or 20))  -- half, if limits are unknown
  return candidate
end

local function is_better(one, other)
  if not other or one.soon ~= other.soon then return not other or one.soon end
  if one.soon and one.pair.shunned ~= other.pair.shunned then return other.pair.shunned end
  if one.start_ms ~= other.start_ms then return one.start_ms < other.start_ms end
  if one.headroom ~= other.headroom then return one.headroom > other.headroom end
  return one.seq < other.seq
end

-- Saves tokens for a large job while its process asks; if the job `rests`, only of limits with long windows. With a
-- short horizon nearly all jobs are large. Only the first saves: else small ones would in turn, and a large one never.
local function save_for(job, best, rests)
  local until_ms = job.list and not rests and now + DEEPEST_MS + LATE_MS or best.start_ms + SAVING_LOST_MS
  for dimension, bucket in pairs(job.by ~= '' and best.pair.buckets or {}) do
    local needed, saving, rate = cost_in(dimension, best.pair.cost), bucket.saving, rate_of(bucket)
    local need, ours = needed + margin_of(bucket, needed), saving and saving.by == job.by
    local large = COUNTED[dimension] and not counts_emails(dimension) and needed > job.horizon_ms * rate
    local first = not saving or ours or saving.bulk and not job.bulk
      or saving.bulk == job.bulk and job.came_ms < (saving.came_ms or 0)
    if large and bucket.level < need and first and (not rests or bucket.window_ms > LONG_WINDOW_MS) then
      -- Of the tokens that are there now, smaller jobs may take as many as the large job lacks.
      local since_ms = ours and saving.since_ms or now - 2 * max(0, 2 * bucket.level - need) / rate
      bucket.saving = {by = job.by, bulk = job.bulk, need = need, since_ms = since_ms, until_ms = until_ms,
        came_ms = ours and saving.came_ms or job.came_ms}
    end
  end
  save_buckets(best.pair.key, best.pair.buckets)
end
