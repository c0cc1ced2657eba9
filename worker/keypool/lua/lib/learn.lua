-- What an answer teaches about limits.

local PACE_STEP, LEAST_PACE, PACE_RECOVERY, SLOWED_APART_MS = 0.02, 0.8, 0.00004, 1000
local TRIES, RAISE = 4, 1.5  -- after four calls in a row beyond a limit, it is taken for half as much again
local FAST_RAISES = 3        -- three times at once; then slowly, since what was left unused also passes
local TRIED_MS = 5000        -- calls beyond a limit explain refusals for this long
local ROUNDED = 0.0001         -- of a call: what a time in whole milliseconds leaves out

-- A call has passed. A few may pass beyond a limit with what was left unused; if more do, it was raised. One that has
-- costs no credit, and the next may try at once, until any call is refused, for tries take what that was to have.
local function speed_up(buckets, lease, learned)
  for dimension, bucket in pairs(buckets) do
    bucket.pace, bucket.credit = min(1, bucket.pace + PACE_RECOVERY), min(TRY_AFTER, bucket.credit + 1)
    if lease and lease.tried == dimension and lease.start_ms > bucket.corrected_ms then
      bucket.credit, bucket.lent, bucket.passed = bucket.credit + TRY_AFTER, true, (bucket.passed or 0) + 1
      if bucket.passed == TRIES then
        bucket.limit, bucket.raises, bucket.passed = ceil(bucket.limit * RAISE), (bucket.raises or 0) + 1, 0
        if bucket.raises >= FAST_RAISES then bucket.credit, bucket.lent = 0, nil end
        learned[#learned + 1] = dimension .. '=' .. bucket.limit .. ' or more'
      end
    end
  end
  -- So the calls that are refused together at a limit stay few beside those that passed, however high it is.
  local ramp = buckets.ramp
  if ramp then ramp.limit, ramp.apart_ms = ramp.limit + 1 / 64, min(APART_MS, floor(FLIGHT_MS / ramp.limit)) end
end

-- A limit is new or has changed. Calls that left before its window was known count from now on: the first leave late.
local function change_limit(buckets, dimension, limit, window_ms)
  local known, bucket = buckets[dimension], new_bucket(dimension, limit, window_ms)
  buckets[dimension] = bucket
  if known then
    for _, part in ipairs({'saving', 'debt', 'corrected_ms', 'capped'}) do bucket[part] = known[part] end
    bucket.level = min(limit, known.level + max(0, limit - known.limit))
    bucket.log = bucket.log and (known.log or bucket.log)
    for _, other in pairs(limit > known.limit and buckets or {}) do other.lent = true end  -- a plan raises all
  end
  for _ in ipairs(bucket.log and buckets.ramp and buckets.ramp.log or {}) do charge(bucket, 1, now) end
  return bucket
end

-- observed: limits that the answer stated, each {dimension, limit, window_ms, remaining or nil}. refused: the lease, if
-- its call was refused for a limit and it has not expired. stated_ms: when the provider said to come again, if it did.
local function learn_limits(buckets, observed, refused, stated_ms, learned)
  for _, seen in ipairs(observed) do
    local dimension, limit, window_ms, remaining = unpack(seen)
    local bucket, cost, left = buckets[dimension], refused and cost_in(dimension, refused.cost), remaining or limit
    local short, is_new = refused and (not remaining or remaining < cost), not bucket
    if is_new or bucket.limit ~= limit or bucket.window_ms ~= window_ms then
      learned[#learned + 1] = dimension .. '=' .. limit
      bucket = change_limit(buckets, dimension, limit, window_ms)
    elseif short and window_ms <= 60000 and now - (bucket.tried_ms or 0) >= TRIED_MS
      and now - bucket.slowed_ms >= SLOWED_APART_MS and refused.start_ms > bucket.slowed_ms then
      bucket.slowed_ms, bucket.pace = now, max(LEAST_PACE, bucket.pace - PACE_STEP)  -- although there was room
      learned[#learned + 1] = string.format('%s at %d %% of its pace', dimension, bucket.pace * 100 + 0.5)
    end
    bucket.stated = bucket.stated or remaining and not refused
    if short and refused.start_ms > bucket.corrected_ms then
      bucket.credit = is_new and TRY_AFTER / 5 or min(bucket.credit, 0)  -- a fifth, for those that passed before
      bucket.lent, bucket.passed, bucket.raises = nil, nil, nil
    end
    if bucket.held then bucket.held.amount = max(0, min(bucket.held.amount, left - bucket.level)) end
    if bucket.log then  -- the times in it say all
    elseif short and (stated_ms or remaining) then
      -- At the stated time there is room for this call only, or a crowd would be refused again. Our level excludes what
      -- is reserved for later, and has the margin to spare, so the difference counts from there.
      local level = min(left, stated_ms and cost - stated_ms * rate_of(bucket) or left)
      local was = max(bucket.level, margin_of(bucket, cost))
      if was - level > ROUNDED and refused.start_ms > bucket.corrected_ms then
        bucket.level, bucket.debt, bucket.corrected_ms = bucket.level - (was - level), bucket.debt + was - level, now
        bucket.held = {amount = max(0, min(was, left) - level), until_ms = now + (stated_ms or 0)}
      end
    elseif remaining then bucket.level = min(bucket.level, remaining) end  -- less are calls in flight
  end
end

-- A provider that states only how much of a quota is used shows the limit by its first refusal. It is then forgotten as
-- keypool.md says. quotas: by dimension, each {used, window_ms, 1 if the call was refused for it}.
local function learn_quotas(buckets, quotas, lease, outcome, learned)
  for dimension, seen in pairs(quotas) do
    local used, window_ms, spent = unpack(seen)
    local bucket, cost = buckets[dimension], lease and cost_in(dimension, lease.cost) or 0
    if bucket and used > bucket.limit then bucket, buckets[dimension] = nil, nil end
    local limit = used + cost - 1  -- at most
    if spent == 1 and cost > 0 and limit > 0 and (not bucket or bucket.limit > limit) then
      bucket = new_bucket(dimension, limit, window_ms)
      bucket.learned_ms = now
      buckets[dimension], learned[#learned + 1] = bucket, dimension .. '=' .. limit
    end
    if bucket and bucket.ends_ms and lease and lease.start_ms >= bucket.ends_ms - DAY_MS then  -- not yesterday's
      bucket.level = min(bucket.level, bucket.limit - used)
    end
  end
  for dimension, bucket in pairs(buckets) do
    local silent = outcome == 'ok' and not quotas[dimension]
    if bucket.learned_ms and (silent or now - bucket.learned_ms > STATE_TTL_MS) then buckets[dimension] = nil end
  end
end
