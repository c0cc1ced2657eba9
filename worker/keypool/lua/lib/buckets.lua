-- What is in a bucket, and how it is kept: all of an account × model in one map by dimension.
--
-- A bucket is {limit, window_ms, level, at_ms, pace, slowed_ms, credit, debt, corrected_ms} and refills continuously;
-- what is read is brought up to now. `pace` falls below 1 where calls were refused that should have passed. `credit`
-- counts the calls that it let through: from TRY_AFTER on one may go beyond the limit. It is -(when) while one is on
-- its way, and above TRY_AFTER while such calls pass. `debt`: how much less there was than was thought.
-- Some have: `ends_ms`: the quota of a day or month, full again at that instant and not before. `log` = {ms, …}: the
-- provider counts in windows, and no `limit + 1` calls may fall into any window, wherever it starts; the instants at
-- which calls went or are to go. `capped`: the provider reserves more than the limit for an answer without a cap.
--
-- The bucket `ramp` stands for a limit of requests that is not known yet. What is on its way when it is reached is
-- refused together, so only few calls may have left within FLIGHT_MS and not be answered; a refusal comes fast, so an
-- older one will not be refused any more.

local WINDOW_MARGIN_MS = 12  -- calls that leave in order may arrive a little closer together
local LOG_LIMIT = 200        -- beyond this many calls a window is smooth enough to count as continuous
local DAY_MS = 86400000
local FLIGHT_MS = 250
local TRY_AFTER = 334        -- calls that a bucket lets through before one beyond its limit is tried: 3 in 1,000
local AFTER_MIDNIGHT_MS = 60000  -- the provider's clock may be behind

local COUNTED = {tpm = 'tokens', tpd = 'tokens', itpm = 'input_tokens', otpm = 'output_tokens', epd = 'emails',
  epmo = 'emails'}  -- all other dimensions count requests

local function cost_in(dimension, cost) return cost[COUNTED[dimension] or 'requests'] or 0 end

local function counts_emails(dimension) return COUNTED[dimension] == 'emails' end

-- When a quota is whole again: after midnight (UTC), from then on each day. That of a month is then believed to be
-- whole, until the next answer tells what is used: nobody tells when it ends.
local function quota_ends_ms()
  local shift_ms = AFTER_MIDNIGHT_MS + skew_ms  -- midnight is the calendar's, by the real clock
  return ceil((now + 1 - shift_ms) / DAY_MS) * DAY_MS + shift_ms
end

local function rate_of(bucket) return bucket.pace * bucket.limit / bucket.window_ms end

-- For how long a call stands in the way of others where the provider counts in windows.
local function span_ms(bucket) return floor((2 - bucket.pace) * bucket.window_ms) + WINDOW_MARGIN_MS end

local function refill(bucket)
  if bucket.log then
    bucket.level = bucket.limit
    for _, at_ms in ipairs(bucket.log) do
      if at_ms + bucket.window_ms > now then bucket.level = bucket.level - 1 end
    end
  elseif not bucket.ends_ms then
    bucket.level = min(bucket.limit, bucket.level + max(0, now - bucket.at_ms) * rate_of(bucket))
  elseif now >= bucket.ends_ms then
    local ended = 1 + floor((now - bucket.ends_ms) / DAY_MS)
    bucket.level = min(bucket.limit, ended * bucket.limit + min(0, bucket.level))  -- below 0: taken from the next one
  end
  if bucket.ends_ms then bucket.ends_ms = quota_ends_ms() end
  bucket.at_ms = max(bucket.at_ms, now)
end

-- As the version before this one kept them, in the field `limits`: numbers in a row, and a map of what few have.
local function read_former(text)
  local buckets, place = {}, 2
  for _ = 1, text:byte() do
    local one = {struct.unpack('<Bc0ddddddddd', text, place)}
    buckets[one[1]], place = {limit = one[2], window_ms = one[3], level = one[4], at_ms = one[5], pace = one[6],
      slowed_ms = one[7], credit = one[8], debt = 0, corrected_ms = one[10]}, one[11]
  end
  for dimension, parts in pairs(place <= #text and cmsgpack.unpack(text:sub(place)) or {}) do
    for name, value in pairs(parts) do buckets[dimension][name] = value end
  end
  return buckets
end

local function read_buckets(packed, former)
  local buckets = packed and cmsgpack.unpack(packed) or former and read_former(former) or {}
  for _, bucket in pairs(buckets) do refill(bucket) end
  return buckets
end

local function save_buckets(pair_key, buckets)
  if next(buckets) then return redis.call('HSET', pair_key, 'buckets', cmsgpack.pack(buckets)) end
  redis.call('HDEL', pair_key, 'buckets', 'limits')
end

-- A full bucket of a limit that was not known before.
local function new_bucket(dimension, limit, window_ms)
  return {limit = limit, window_ms = window_ms, level = limit, at_ms = now, pace = 1, slowed_ms = now, credit = 0,
    debt = 0, corrected_ms = 0, log = window_ms <= 1000 and limit <= LOG_LIMIT and {} or nil,
    ends_ms = counts_emails(dimension) and quota_ends_ms() or nil}
end

local function new_ramp(opening)
  local ramp = new_bucket('ramp', opening, FLIGHT_MS - WINDOW_MARGIN_MS)
  ramp.log = {}
  return ramp
end

-- What stays in the bucket, so that calls that arrive a little early are not refused.
local function margin_of(bucket, cost)
  if bucket.window_ms > 3600000 then return 0 end
  return max(0, min(bucket.limit / 100, 2 * cost, bucket.limit - cost))
end

-- When one more call may go where the provider counts in windows, by those that go until an instant.
local function window_opens_ms(bucket, until_ms)
  local calls = #bucket.log
  while calls > 0 and bucket.log[calls] > until_ms do calls = calls - 1 end
  local oldest_ms = bucket.log[calls - floor(bucket.limit) + 1]
  return oldest_ms and oldest_ms + span_ms(bucket) or 0
end

-- When there is room for a call. `level` is what is in the bucket for this job, and `rate` how fast it refills for it.
local function ready_ms(bucket, cost, level, rate)
  if cost <= 0 then return now end
  if bucket.log then return max(now, window_opens_ms(bucket, NEVER)) end
  local missing = cost + margin_of(bucket, cost) - level
  if missing <= 0 then return now end
  if bucket.ends_ms then return bucket.ends_ms + (ceil(missing / bucket.limit) - 1) * DAY_MS end
  return now + ceil(missing / rate)
end

local function remove_one(list, value)
  for place = #list, 1, -1 do
    if list[place] == value then return table.remove(list, place) end
  end
end

-- Takes `cost` out for a call that goes at an instant; negative: puts it back.
local function charge(bucket, cost, at_ms)
  local log = bucket.log
  if not log then bucket.level = min(bucket.limit, bucket.level - cost)
  elseif cost < 0 then remove_one(log, at_ms)
  elseif cost > 0 then
    while log[1] and log[1] + span_ms(bucket) <= now do table.remove(log, 1) end
    local place = #log + 1
    while place > 1 and log[place - 1] > at_ms do place = place - 1 end
    table.insert(log, place, at_ms)
  end
end
