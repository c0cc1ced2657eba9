-- Learns limits from answers.

local PACE_STEP, LEAST_PACE, PACE_RECOVERY, SLOWED_APART_MS = 0.02, 0.8, 0.00004, 1000
local TRIES, RAISE = 4, 1.5  -- after four tries in a row that passed, a limit is raised by half
local FAST_RAISES = 3        -- after three raises in a row, tries must be earned again: unused capacity lets some pass
local TRIED_MS = 5000        -- for this long a try explains refusals, so they do not slow the bucket down
local ROUNDED = 0.0001         -- the part of a call that a time in whole milliseconds may leave out

-- A call has passed. Unused capacity lets a few calls pass beyond a limit; if more pass, the limit was raised. A try
-- that passed costs no credit, and the next may follow at once, until any call is refused: its capacity went to tries.
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
  -- The ramp grows with successes, so the calls that a limit refuses together are few compared with those that passed.
  local ramp = buckets.ramp
  if ramp then ramp.limit, ramp.apart_ms = ramp.limit + 1 / 64, min(APART_MS, floor(FLIGHT_MS / ramp.limit)) end
end

-- A limit is new or has changed. Calls that left before a window was known count as leaving now, since some leave late.
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
-- its call was refused for a limit and it has not expired. stated_ms: the wait that the provider stated, if any.
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
      bucket.slowed_ms, bucket.pace = now, max(LEAST_PACE, bucket.pace - PACE_STEP)  -- refused despite room
      learned[#learned + 1] = string.format('%s at %d %% of its pace', dimension, bucket.pace * 100 + 0.5)
    end
    bucket.stated = bucket.stated or remaining and not refused
    if short and refused.start_ms > bucket.corrected_ms then
      bucket.credit = is_new and TRY_AFTER / 5 or min(bucket.credit, 0)  -- for calls that passed before
      bucket.lent, bucket.passed, bucket.raises = nil, nil, nil
    end
    if bucket.held then bucket.held.amount = max(0, min(bucket.held.amount, left - bucket.level)) end
    if bucket.log then  -- the level follows from the log
    elseif short and (stated_ms or remaining) then
      -- At the stated time there is room for this call only, or else a crowd would be refused again. The level excludes
      -- what is reserved for later, and the margin stays in it, so the correction begins at the larger of the two.
      local level = min(left, stated_ms and cost - stated_ms * rate_of(bucket) or left)
      local was = max(bucket.level, margin_of(bucket, cost))
      if was - level > ROUNDED and refused.start_ms > bucket.corrected_ms then
        bucket.level, bucket.debt, bucket.corrected_ms = bucket.level - (was - level), bucket.debt + was - level, now
        bucket.held = {amount = max(0, min(was, left) - level), until_ms = now + (stated_ms or 0)}
      end
    elseif remaining then bucket.level = min(bucket.level, remaining) end  -- ours is lower while calls are in flight
  end
end

-- If a provider states only how much of a quota is used, its first refusal shows the limit. keypool.md says when that
-- limit is forgotten. quotas: by dimension, each {used, window_ms, 1 if the call was refused for it}.
local function learn_quotas(buckets, quotas, lease, outcome, learned)
  for dimension, seen in pairs(quotas) do
    local used, window_ms, spent = unpack(seen)
    local bucket, cost = buckets[dimension], lease and cost_in(dimension, lease.cost) or 0
    if bucket and used > bucket.limit then bucket, buckets[dimension] = nil, nil end
    local limit = used + cost - 1  -- an upper bound, because the call did not fit
    if spent == 1 and cost > 0 and limit > 0 and (not bucket or bucket.limit > limit) then
      bucket = new_bucket(dimension, limit, window_ms)
      bucket.learned_ms = now
      buckets[dimension], learned[#learned + 1] = bucket, dimension .. '=' .. limit
    end
    if bucket and bucket.ends_ms and lease and lease.start_ms >= bucket.ends_ms - DAY_MS then  -- a call of today
      bucket.level = min(bucket.level, bucket.limit - used)
    end
  end
  for dimension, bucket in pairs(buckets) do
    local silent = outcome == 'ok' and not quotas[dimension]
    if bucket.learned_ms and (silent or now - bucket.learned_ms > STATE_TTL_MS) then buckets[dimension] = nil end
  end
end
