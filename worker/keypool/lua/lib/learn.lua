-- What an answer teaches about limits.

local PACE_STEP, LEAST_PACE, PACE_RECOVERY = 0.02, 0.8, 0.00004
local TRY_NEVER = -1e15      -- the credit of a limit that answers tell in their headers
local TRIES, RAISE = 4, 1.5  -- so many calls beyond a limit pass in a row, and it is taken for so much higher
local FAST_RAISES = 3        -- so often at once; then slowly, since what the provider had saved up passes, too

-- A call was refused although the bucket had room for it. A crowd that is refused together counts once, and who left
-- before the limit was known says nothing against it. A refusal is no wonder where calls beyond the limit have just
-- passed, or one is on its way.
local function slow_down(bucket, dimension, start_ms, learned)
  local is_tried = bucket.credit > TRY_AFTER or bucket.credit < 0 and bucket.credit > TRY_NEVER
  if is_tried or now - bucket.slowed_ms < 1000 or start_ms <= bucket.slowed_ms then return end
  bucket.slowed_ms, bucket.pace = now, max(LEAST_PACE, bucket.pace - PACE_STEP)
  learned[#learned + 1] = string.format('%s at %d %% of its pace', dimension, bucket.pace * 100 + 0.5)
end

local function speed_up(buckets)
  for _, bucket in pairs(buckets) do
    bucket.pace = min(1, bucket.pace + PACE_RECOVERY)
    if bucket.credit >= 0 and bucket.credit < TRY_AFTER then bucket.credit = bucket.credit + 1 end
  end
  -- What a limit then refuses together stays small beside what it let through, however high it is.
  if buckets.ramp then buckets.ramp.limit = min(buckets.ramp.limit + 1 / 64, 100000) end
end

-- A call beyond a limit has ended. The first few pass by what was left unused below the limit; when more do, the
-- provider has raised it, and more may be tried at once. A refusal ends that for long, and its words tell the limit.
local function judge_try(buckets, lease, outcome, learned)
  local bucket = buckets[lease.tried]
  if not bucket or bucket.credit >= 0 then return end  -- learned anew meanwhile
  local passed = lease.tries + (outcome == 'ok' and 1 or 0)
  bucket.credit = TRY_AFTER + passed
  if passed < TRIES then return end
  bucket.limit, bucket.raises = ceil(bucket.limit * RAISE), (bucket.raises or 0) + 1
  bucket.credit = bucket.raises < FAST_RAISES and TRY_AFTER or -now
  learned[#learned + 1] = lease.tried .. '=' .. bucket.limit .. ' or more'
end

-- Another limit than was known. What was used of it stays used; so do calls that went while a window was not known:
-- they count from now on, since the first ones take long to leave (they wait for a connection).
local function change_limit(buckets, dimension, limit, window_ms)
  local known, bucket = buckets[dimension], new_bucket(dimension, limit, window_ms)
  buckets[dimension] = bucket
  if known then
    for _, part in ipairs({'saving', 'debt', 'corrected_ms', 'capped'}) do bucket[part] = known[part] end
    bucket.level = min(limit, known.level + max(0, limit - known.limit))
  end
  if bucket.log and known and known.log then bucket.log = known.log
  elseif bucket.log and buckets.ramp then
    for _, start_ms in ipairs(buckets.ramp.log) do
      if start_ms > now - window_ms then table.insert(bucket.log, now) end
    end
  end
  return bucket
end

-- A call was refused: the provider has no more than `level`. Whatever is reserved for instants to come is taken out of
-- ours already, and its own has the margin by design; so what lacks is counted from there. Calls that wait for their
-- instant wait for so much longer (`debt`), and those that left before it was known say nothing new. What is taken out
-- below `left`, until `until_ms`, is the provider's word alone (`held`): a reset gives it back.
local function correct_level(bucket, level, left, lease, cost, until_ms)
  local was = max(bucket.level, margin_of(bucket, cost))
  if was <= level or lease.start_ms <= bucket.corrected_ms then return end
  bucket.level, bucket.debt, bucket.corrected_ms = bucket.level - (was - level), bucket.debt + was - level, now
  bucket.held = {amount = max(0, min(was, left) - level), until_ms = until_ms}
end

-- observed: limits as the answer stated them, each {dimension, limit, window_ms, remaining or nil}.
-- refused: the lease whose call was refused for a limit; nil where it was not, or has expired.
-- stated_ms: after which time the provider told it to come again; nil where it told nothing.
local function learn_limits(buckets, observed, refused, stated_ms, learned)
  for _, seen in ipairs(observed) do
    local dimension, limit, window_ms, remaining = unpack(seen)
    local bucket, cost = buckets[dimension], refused and cost_in(dimension, refused.cost)
    local short, is_new = refused and (not remaining or remaining < cost), not bucket
    if is_new or bucket.limit ~= limit or bucket.window_ms ~= window_ms then
      learned[#learned + 1] = dimension .. '=' .. limit
      bucket = change_limit(buckets, dimension, limit, window_ms)
    elseif short and window_ms <= 60000 then
      slow_down(bucket, dimension, refused.start_ms, learned)
    end
    if remaining and not refused then bucket.credit = TRY_NEVER
    elseif short and bucket.credit ~= TRY_NEVER and refused.start_ms > bucket.corrected_ms then
      -- A little of what passed before a limit was known counts.
      bucket.credit, bucket.raises = is_new and TRY_AFTER / 5 or 0, nil
    end
    local left = remaining or limit
    if bucket.held then bucket.held.amount = max(0, min(bucket.held.amount, left - bucket.level)) end
    if bucket.log then  -- its instants say it all
    elseif short and (stated_ms or remaining) then
      -- When the call would have fitted there is room for it alone, or a crowd would be refused again.
      local level = min(left, stated_ms and cost - stated_ms * rate_of(bucket) or left)
      correct_level(bucket, level, left, refused, cost, now + (stated_ms or 0))
    elseif remaining then
      -- What the provider has left is known to it alone; calls still in flight make it less, never more.
      bucket.level = min(bucket.level, remaining)
    end
  end
  if buckets.rpm or buckets.rps then buckets.ramp = nil end
end

-- A quota that the provider names by what is used of it: its limit shows when it ends. What was learned so goes where
-- the provider does not speak of it any more, where it turns out to be larger, and after some days, in which that would
-- not show.
-- quotas: each {dimension, used, window_ms, 1 where the call was refused for it}. lease: the call's, if it is not lost.
local function learn_quotas(buckets, quotas, lease, outcome, learned)
  local told = {}
  for _, seen in ipairs(quotas) do
    local dimension, used, window_ms, spent = seen[1], seen[2], seen[3], seen[4] == 1
    local bucket, cost = buckets[dimension], lease and cost_in(dimension, lease.cost) or 0
    told[dimension] = true
    if bucket and used > bucket.limit then bucket, buckets[dimension] = nil, nil end
    local limit = used + cost - 1  -- at most: one less would have fitted
    if spent and cost > 0 and limit > 0 and (not bucket or bucket.limit > limit) then
      bucket = new_bucket(dimension, limit, window_ms)
      bucket.learned_ms = now
      buckets[dimension], learned[#learned + 1] = bucket, dimension .. '=' .. limit
    end
    -- What an answer of yesterday tells of its quota says nothing of today's.
    if bucket and bucket.ends_ms and lease and lease.start_ms >= bucket.ends_ms - DAY_MS then
      bucket.level = min(bucket.level, bucket.limit - used)
    end
  end
  for dimension, bucket in pairs(buckets) do
    local silent = outcome == 'ok' and not told[dimension]
    if bucket.learned_ms and (silent or now - bucket.learned_ms > STATE_TTL_MS) then buckets[dimension] = nil end
  end
end

-- Puts the estimate right, or gives back what a call that was not counted did not use.
local function correct(bucket, dimension, lease, said)
  local back = cost_in(dimension, lease.cost)
  if said.counted and dimension ~= 'ramp' then
    local used = said[COUNTED[dimension]]
    -- Not all emails of a batch may have been accepted; one that is sent again reserved none and was charged before.
    if bucket.log or not used or counts_emails(dimension) and back == 0 then return end
    back = back - used
  -- The level that a refusal told does not have what was on its way then.
  elseif lease.start_ms <= bucket.corrected_ms then return end
  if back ~= 0 then charge(bucket, -back, lease.start_ms) end
end
