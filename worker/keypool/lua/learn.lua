-- Stands before settle: what an answer teaches about limits.

local FAULTS_APART_MS = 1000
local LONGEST_REST_MS = 10000  -- of a host or model, so that it is used again soon after it works again
local PACE_STEP, LEAST_PACE, PACE_RECOVERY = 0.02, 0.8, 0.00004
local TRIES, RAISE = 4, 1.5  -- so many calls beyond a limit pass in a row, and it is taken for so much higher
local FAST_RAISES = 3        -- so often at once; then slowly, since what the provider had saved up passes, too

-- A call was refused although the bucket had room for it. A crowd that is refused together counts once, and who left
-- before the limit was known says nothing against it.
local function slow_down(bucket, start_ms, now_ms)
  if now_ms - (bucket.slowed_ms or 0) < 1000 or start_ms <= (bucket.slowed_ms or 0) then return nil end
  bring_up(bucket, now_ms)
  bucket.slowed_ms = now_ms
  bucket.pace = max(LEAST_PACE, (bucket.pace or 1) - PACE_STEP)
  return string.format('at %d %% of its pace', bucket.pace * 100 + 0.5)
end

local function speed_up(buckets)
  for _, bucket in pairs(buckets) do
    if bucket.pace then bucket.pace = min(1, bucket.pace + PACE_RECOVERY) end
    local credit = bucket.credit or 0
    if credit >= 0 and credit < TRY_AFTER then bucket.credit = credit + 1 end
  end
end

-- Whether calls beyond the limit have just passed, or one is on its way: then a refusal is no wonder.
local function is_tried(bucket)
  local credit = bucket.credit or 0
  return credit > TRY_AFTER or credit < 0 and credit > TRY_NEVER
end

-- A call beyond a limit has ended. The first few pass by what was left unused below the limit; when more do, the
-- provider has raised it, and more may be tried at once. A refusal ends that for long, and its words tell the limit.
local function judge_try(buckets, record, outcome, now_ms)
  local bucket, passed = buckets[record.tried], record.tries
  if not bucket or (bucket.credit or 0) >= 0 then return nil end  -- learned anew meanwhile
  if outcome == 'ok' then passed = passed + 1 end
  bucket.credit = TRY_AFTER + passed
  if passed < TRIES then return nil end
  bucket.limit, bucket.raises = ceil(bucket.limit * RAISE), (bucket.raises or 0) + 1
  bucket.credit = bucket.raises < FAST_RAISES and TRY_AFTER or -now_ms
  return record.tried .. '=' .. bucket.limit .. ' or more'
end

-- The calls that went while their window was not known yet. They count from now on: the first ones take long to leave,
-- since they wait for a connection.
local function recent(starts, window_ms, now_ms)
  local log = {}
  for _, start_ms in ipairs(starts) do
    if start_ms > now_ms - window_ms then log[#log + 1] = now_ms end
  end
  return log
end

-- observed: limits as the answer stated them, each {dimension, limit, window_ms, remaining or nil}.
-- flying: when the calls left that are on their way, as far as that was noted.
-- refused: the record of a lease whose call was refused for a limit; nil where it was not, or has expired.
-- stated_ms: after which time the provider told it to come again; nil where it told nothing.
local function learn_limits(buckets, observed, flying, now_ms, refused, stated_ms)
  local learned = {}
  for _, seen in ipairs(observed) do
    local dimension, limit, window_ms, remaining = seen[1], seen[2], seen[3], seen[4]
    local bucket = buckets[dimension]
    local cost = refused and cost_in(dimension, refused.cost)
    local short, is_new = refused and (not remaining or remaining < cost), not bucket
    if not bucket or bucket.limit ~= limit or bucket.window_ms ~= window_ms then
      learned[#learned + 1] = dimension .. '=' .. limit
      local known = bucket or {}
      bucket = new_bucket(dimension, limit, window_ms, now_ms)
      bucket.saving, bucket.debt, bucket.corrected_ms, bucket.capped =
        known.saving, known.debt, known.corrected_ms, known.capped
      -- What was used of it stays used.
      if known.limit then bucket.level = min(limit, level_at(known, now_ms) + max(0, limit - known.limit)) end
      bucket.log = bucket.log and (known.log or recent(flying, window_ms, now_ms))
      while bucket.log and #bucket.log > limit do table.remove(bucket.log, 1) end
      buckets[dimension] = bucket
    elseif short and window_ms <= 60000 and not is_tried(bucket) then
      local slower = slow_down(bucket, refused.start_ms, now_ms)
      if slower then learned[#learned + 1] = dimension .. ' ' .. slower end
    end
    if remaining and not refused then bucket.credit = TRY_NEVER
    elseif short and bucket.credit ~= TRY_NEVER and refused.start_ms > (bucket.corrected_ms or 0) then
      -- A little of what passed before a limit was known counts.
      bucket.credit, bucket.raises = is_new and TRY_AFTER / 5 or 0, nil
    end
    if bucket.held and bucket.held.until_ms <= now_ms then bucket.held = nil end
    if short and (stated_ms or remaining) and not bucket.log then
      -- When the call would have fitted there is room for it alone, however long that is: a crowd would be refused
      -- again.
      local left = remaining or bucket.limit
      local level = min(left, stated_ms and cost - stated_ms * rate_of(bucket) or left)
      correct_level(bucket, level, left, cost, refused.start_ms, now_ms + (stated_ms or 0), now_ms)
    elseif remaining and not bucket.log then
      -- What the provider has left is known to it alone; calls still in flight make it less, never more.
      bring_up(bucket, now_ms)
      if bucket.held then bucket.held.amount = max(0, min(bucket.held.amount, remaining - bucket.level)) end
      bucket.level = min(bucket.level, remaining)
    end
  end
  return learned
end

-- A quota that the provider names by what is used of it: its limit shows when it ends. What was learned so goes where
-- the provider does not speak of it any more, where it turns out to be larger, and after some days, in which that would
-- not show.
-- quotas: each {dimension, used, window_ms, 1 where the call was refused for it}. record: of the call's lease, if it is
-- not lost.
local function learn_quotas(buckets, quotas, record, outcome, now_ms)
  local learned, told = {}, {}
  for _, seen in ipairs(quotas) do
    local dimension, used, window_ms, spent = seen[1], seen[2], seen[3], seen[4] == 1
    local bucket, cost = buckets[dimension], record and cost_in(dimension, record.cost) or 0
    told[dimension] = true
    if bucket and used > bucket.limit then bucket, buckets[dimension] = nil, nil end
    local limit = used + cost - 1  -- at most: one less would have fitted
    if spent and cost > 0 and limit > 0 and (not bucket or bucket.limit > limit) then
      bucket = new_bucket(dimension, limit, window_ms, now_ms)
      bucket.learned_ms = now_ms
      buckets[dimension], learned[#learned + 1] = bucket, dimension .. '=' .. limit
    end
    -- What an answer of yesterday tells of its quota says nothing of today's.
    if bucket and bucket.ends_ms and record and record.start_ms >= quota_ends_ms(now_ms) - DAY_MS then
      bring_up(bucket, now_ms)
      bucket.level = min(bucket.level, bucket.limit - used)
    end
  end
  for dimension, bucket in pairs(buckets) do
    local silent = outcome == 'ok' and not told[dimension]
    if bucket.learned_ms and (silent or now_ms - bucket.learned_ms > STATE_TTL_MS) then buckets[dimension] = nil end
  end
  return learned
end

-- Puts the estimate right, or gives back what a refused call did not use. `said`: what the provider counted.
local function correct(buckets, record, said, now_ms)
  local counted = said.counted
  for dimension, bucket in pairs(buckets) do
    local back = cost_in(dimension, record.cost)
    if counted then
      local used = said[COUNTED[dimension]]
      -- Not all emails of a batch may have been accepted; one that is sent again reserved none and was charged before.
      if not used or counts_emails(dimension) and back == 0 then used = back end
      back = back - used
    end
    -- The level that a refusal told does not have what was on its way then.
    local told = not counted and record.start_ms <= (bucket.corrected_ms or 0)
    if back ~= 0 and not told and not (counted and bucket.log) then charge(bucket, -back, record.start_ms, now_ms) end
  end
end

-- A success lets more calls be on their way while no rate is known, as a share of what has passed: what a limit then
-- refuses together stays small beside what it let through, however high it is.
local function wider(window) return min(window + 1 / 64, 100000) end

local function land(flying, start_ms)
  for place, at_ms in ipairs(flying) do
    if at_ms == start_ms then table.remove(flying, place) break end
  end
end

-- Counts a fault of a host or model that no key is to blame for. Returns until when it rests, 0 where it does not.
-- A crowd of calls that fail together counts once a second, so that one hiccup does not rest for long.
local function count_fault(scope_key, reason, now_ms)
  local record = redis.call('HMGET', scope_key, 'faults', 'fault_ms', 'until_ms')
  local faults, until_ms = tonumber(record[1]) or 0, tonumber(record[3]) or 0
  redis.call('HDEL', scope_key, 'probe_ms')
  if now_ms - (tonumber(record[2]) or 0) < FAULTS_APART_MS or until_ms > now_ms then return 0 end
  faults = faults + 1
  redis.call('HSET', scope_key, 'faults', faults, 'fault_ms', now_ms)
  redis.call('PEXPIRE', scope_key, STATE_TTL_MS)
  if faults < BREAKER_FAULTS then return 0 end
  until_ms = now_ms + min(1000 * 2 ^ (faults - BREAKER_FAULTS), LONGEST_REST_MS)
  redis.call('HSET', scope_key, 'until_ms', until_ms, 'since_ms', now_ms, 'reason', reason)
  return until_ms
end

-- A host or model answered. A record that says nothing any more goes, since every acquire looks at those there are.
local function recover(scope_key, now_ms)
  redis.call('HDEL', scope_key, 'faults', 'probe_ms', 'probe_by')
  local left = redis.call('HMGET', scope_key, 'state', 'until_ms', 'fault_ms')
  local last_ms = max(tonumber(left[2]) or 0, (tonumber(left[3]) or 0) + FAULTS_APART_MS)
  if not left[1] and last_ms <= now_ms then redis.call('DEL', scope_key) end
end
