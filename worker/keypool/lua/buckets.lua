-- Stands before the scripts that read or change buckets: what is in one, and how it is kept.
--
-- A bucket is {limit, window_ms, level, at_ms} and refills continuously. `credit` tells when a call beyond the limit
-- may be tried next, to learn whether the provider has raised it: see learn.lua. `debt`: see `correct_level`. Where it
-- has `ends_ms` it is the quota of a day or month and is full again at that instant, not before. Where it has `log` =
-- {ms, …} the provider counts in windows: then no `limit + 1` calls may fall into any window, wherever it starts. `log`
-- has the instants that calls were promised, `left` those at which they really went. `capped`: the provider reserves
-- more than the limit for the answer of a request that names no cap.

local WINDOW_MARGIN_MS = 12  -- calls that leave in order may arrive a little closer together
local LOG_LIMIT = 200        -- beyond this many calls a window is smooth enough to count as continuous
local DAY_MS = 86400000
local TRY_AFTER = 334        -- calls that a bucket lets through before one beyond its limit is tried: 3 in 1,000
local TRY_NEVER = -1e15      -- the credit of a limit that answers tell in their headers
local AFTER_MIDNIGHT_MS = 60000  -- the provider's clock may be behind

local COUNTED = {tpm = 'tokens', tpd = 'tokens', itpm = 'input_tokens', otpm = 'output_tokens', epd = 'emails',
  epmo = 'emails'}  -- all other dimensions count requests

local function cost_in(dimension, cost) return cost[COUNTED[dimension] or 'requests'] or 0 end

local function counts_emails(dimension) return COUNTED[dimension] == 'emails' end

local function counts_tokens(dimension) return COUNTED[dimension] ~= nil and not counts_emails(dimension) end

-- When a quota is whole again: after midnight (UTC), from then on each day. That of a month is then believed to be
-- whole, until the next answer tells what is used: nobody tells when it ends.
local function quota_ends_ms(now_ms)
  local shift_ms = AFTER_MIDNIGHT_MS + skew_ms  -- midnight is the calendar's, by the real clock
  return ceil((now_ms + 1 - shift_ms) / DAY_MS) * DAY_MS + shift_ms
end

-- `pace` falls below 1 where calls were refused that should have passed, and recovers with those that do.
local function rate_of(bucket) return (bucket.pace or 1) * bucket.limit / bucket.window_ms end

local function level_at(bucket, at_ms)
  if bucket.ends_ms then
    if at_ms < bucket.ends_ms then return bucket.level end
    local ended = 1 + floor((at_ms - bucket.ends_ms) / DAY_MS)
    return min(bucket.limit, ended * bucket.limit + min(0, bucket.level))  -- below 0: taken from the next one
  end
  return min(bucket.limit, bucket.level + max(0, at_ms - bucket.at_ms) * rate_of(bucket))
end

local function bring_up(bucket, now_ms)
  bucket.level = level_at(bucket, now_ms)
  if bucket.ends_ms then bucket.ends_ms = quota_ends_ms(now_ms) end
  bucket.at_ms = max(bucket.at_ms, now_ms)
end

local function headroom_of(bucket, now_ms)
  if not bucket.log then return level_at(bucket, now_ms) / bucket.limit end
  local recent = 0
  for _, at_ms in ipairs(bucket.log) do
    if at_ms > now_ms - bucket.window_ms then recent = recent + 1 end
  end
  return 1 - recent / bucket.limit
end

-- What stays in the bucket, so that calls that arrive a little early are not refused.
local function margin_of(limit, window_ms, cost)
  if window_ms > 3600000 then return 0 end
  return max(0, min(limit / 100, 2 * cost, limit - cost))
end

-- When one more call may go where the provider counts in windows, by the instants in `log` or in `left`.
local function window_opens_ms(bucket, instants)
  local oldest = instants and instants[#instants - bucket.limit + 1]
  if not oldest then return 0 end
  return oldest + bucket.window_ms + WINDOW_MARGIN_MS + floor((1 - (bucket.pace or 1)) * bucket.window_ms)
end

-- `level` is what is in the bucket for this job, and `rate` how fast it refills for it.
local function ready_ms(bucket, cost, now_ms, level, rate)
  if cost <= 0 then return now_ms end
  if bucket.log then
    return max(now_ms, window_opens_ms(bucket, bucket.log), window_opens_ms(bucket, bucket.left))
  end
  local missing = cost + margin_of(bucket.limit, bucket.window_ms, cost) - level
  if missing <= 0 then return now_ms end
  if bucket.ends_ms then
    local ends_ms = now_ms < bucket.ends_ms and bucket.ends_ms or quota_ends_ms(now_ms)
    return ends_ms + (ceil(missing / bucket.limit) - 1) * DAY_MS
  end
  return now_ms + ceil(missing / rate)
end

-- Takes `cost` out (negative: puts it back). `at_ms` is when the call starts.
local function charge(bucket, cost, at_ms, now_ms)
  if not bucket.log then
    bring_up(bucket, now_ms)
    bucket.level = bucket.level - cost
  elseif cost > 0 then
    local place = #bucket.log + 1
    while place > 1 and bucket.log[place - 1] > at_ms do place = place - 1 end
    table.insert(bucket.log, place, at_ms)
    while #bucket.log > bucket.limit do table.remove(bucket.log, 1) end
  elseif cost < 0 then
    for place = #bucket.log, 1, -1 do
      if bucket.log[place] == at_ms then table.remove(bucket.log, place) break end
    end
  end
end

-- Notes a call that goes now. Returns whether anything is counted in windows.
local function depart(buckets, now_ms)
  local windowed = nil
  for _, bucket in pairs(buckets) do
    if bucket.log then
      local left = bucket.left or {}
      left[#left + 1] = now_ms
      while #left > bucket.limit do table.remove(left, 1) end
      bucket.left, windowed = left, true
    end
  end
  return windowed
end

-- Takes back what was noted at an instant: the call was held up on its way.
local function stay(buckets, at_ms)
  for _, bucket in pairs(buckets) do
    for place, left_ms in ipairs(bucket.left or {}) do
      if left_ms == at_ms then table.remove(bucket.left, place) break end
    end
  end
end

-- A call was refused: the provider has no more than `level`. Whatever is reserved for instants to come is taken out of
-- ours already, and its own has the margin by design; so what lacks is counted from there. Calls that wait for their
-- instant wait for so much longer (`debt`), and those that left before it was known say nothing new. What is taken out
-- below `left`, until `until_ms`, is the provider's word alone: a reset gives it back.
local function correct_level(bucket, level, left, cost, start_ms, until_ms, now_ms)
  bring_up(bucket, now_ms)
  if bucket.held then bucket.held.amount = max(0, min(bucket.held.amount, left - bucket.level)) end
  local was = max(bucket.level, margin_of(bucket.limit, bucket.window_ms, cost))
  if was <= level or start_ms <= (bucket.corrected_ms or 0) then return end
  bucket.level, bucket.debt = bucket.level - (was - level), (bucket.debt or 0) + was - level
  bucket.corrected_ms = now_ms
  bucket.held = {amount = max(0, min(was, left) - level), until_ms = until_ms}
end

-- Puts that back, where its time is not over.
local function let_go(bucket, now_ms)
  local held = bucket.held
  if not held then return end
  bring_up(bucket, now_ms)
  if held.until_ms > now_ms then bucket.level = min(bucket.limit, bucket.level + held.amount) end
  bucket.held = nil
end

-- The buckets that a lease's cost was taken out of: others were learned while it was out.
local function taken_from(record, buckets)
  local found = {}
  for dimension in (record.dims or ''):gmatch('%S+') do found[dimension] = buckets[dimension] end
  return found
end

-- Puts back all that a lease has taken out.
local function give_back(buckets, record, now_ms)
  for dimension, bucket in pairs(taken_from(record, buckets)) do
    charge(bucket, -cost_in(dimension, record.cost), record.start_ms, now_ms)
  end
end

-- Buckets are kept as text: how many they are, and of each the dimension and NUMBERS numbers; what few have (PARTS)
-- follows as one map. A candidate is weighed without making a table of each bucket.
local NUMBERS = 9
local BUCKET = '<Bc0' .. ('d'):rep(NUMBERS)
local PARTS = {'log', 'left', 'saving', 'held', 'ends_ms', 'learned_ms', 'raises', 'capped'}

local function pack_buckets(buckets)
  local parts, others = {''}, {}
  for dimension, bucket in pairs(buckets) do
    parts[#parts + 1] = struct.pack(BUCKET, #dimension, dimension, bucket.limit, bucket.window_ms, bucket.level,
      bucket.at_ms, bucket.pace or 1, bucket.slowed_ms or 0, bucket.credit or 0, bucket.debt or 0,
      bucket.corrected_ms or 0)
    local other = {}
    for _, part in ipairs(PARTS) do other[part] = bucket[part] end
    if next(other) then others[dimension] = other end
  end
  parts[1] = string.char(#parts - 1)
  if next(others) then parts[#parts + 1] = cmsgpack.pack(others) end
  return table.concat(parts)
end

local function buckets_of(text)
  local buckets, place = {}, 2
  for _ = 1, text and text:byte() or 0 do
    local dimension, limit, window_ms, level, at_ms, pace, slowed_ms, credit, debt, corrected_ms
    dimension, limit, window_ms, level, at_ms, pace, slowed_ms, credit, debt, corrected_ms, place =
      struct.unpack(BUCKET, text, place)
    buckets[dimension] = {limit = limit, window_ms = window_ms, level = level, at_ms = at_ms, pace = pace,
      slowed_ms = slowed_ms, credit = credit, debt = debt, corrected_ms = corrected_ms}
  end
  if text and place <= #text then
    for dimension, other in pairs(cmsgpack.unpack(text:sub(place))) do
      for name, value in pairs(other) do buckets[dimension][name] = value end
    end
  end
  return buckets
end

-- A full bucket of a limit that was not known before.
local function new_bucket(dimension, limit, window_ms, now_ms)
  return {limit = limit, window_ms = window_ms, level = limit, at_ms = now_ms, slowed_ms = now_ms, credit = 0,
    log = window_ms <= 1000 and limit <= LOG_LIMIT and {} or nil,
    ends_ms = counts_emails(dimension) and quota_ends_ms(now_ms) or nil}
end

local function save_buckets(scope_key, buckets)
  if not next(buckets) then return redis.call('HDEL', scope_key, 'limits') end
  redis.call('HSET', scope_key, 'limits', pack_buckets(buckets))
  redis.call('PEXPIRE', scope_key, STATE_TTL_MS)
end
