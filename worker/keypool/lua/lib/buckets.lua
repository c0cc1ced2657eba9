-- Refills and charges buckets. `account_model` in names.py documents the fields of a bucket.

local WINDOW_MARGIN_MS = 12      -- calls may arrive at the provider a little closer together than they left
local LOG_LIMIT = 200            -- a larger limit is smooth enough to count as continuous, without a log of its calls
local DAY_MS = 86400000
local FLIGHT_MS, APART_MS = 250, 25  -- all refusals are known after the first time, most after the second
local TRY_AFTER = 334            -- one call in 334 may exceed the limit: 3 in 1,000
local AFTER_MIDNIGHT_MS = 60000  -- the provider's clock may be behind
local COUNTED = {tpm = 'tokens', tpd = 'tokens', itpm = 'input_tokens', otpm = 'output_tokens', epd = 'emails',
  epmo = 'emails'}  -- all other dimensions count requests

local function cost_in(dimension, cost) return cost[COUNTED[dimension] or 'requests'] or 0 end
local function counts_emails(dimension) return COUNTED[dimension] == 'emails' end

-- Returns when a quota is full again: after midnight (UTC, by Redis' clock); also a month's: no answer states its end.
local function quota_ends_ms()
  local shift_ms = AFTER_MIDNIGHT_MS + now - real_ms
  return ceil((now + 1 - shift_ms) / DAY_MS) * DAY_MS + shift_ms
end

local function rate_of(bucket) return bucket.pace * bucket.limit / bucket.window_ms end
-- Returns how long a call counts if the provider counts in windows.
local function span_ms(bucket) return floor((2 - bucket.pace) * bucket.window_ms) + WINDOW_MARGIN_MS end

local function refill(bucket)
  local log = bucket.log
  if log then
    while log[1] and log[1] + span_ms(bucket) <= now do table.remove(log, 1) end
    bucket.level = bucket.limit - #log
  elseif not bucket.ends_ms then
    bucket.level = min(bucket.limit, bucket.level + max(0, now - bucket.at_ms) * rate_of(bucket))
  elseif now >= bucket.ends_ms then
    local ended = 1 + floor((now - bucket.ends_ms) / DAY_MS)
    bucket.level = min(bucket.limit, ended * bucket.limit + min(0, bucket.level))  -- below 0: the next quota's debt
  end
  if bucket.ends_ms then bucket.ends_ms = quota_ends_ms() end
  bucket.at_ms = max(bucket.at_ms, now)
end

-- Returns the buckets of an account × model, and when it last turned a request down, if it has served none since.
local function read_buckets(pair_key)
  local packed, turned_ms = unpack(redis.call('HMGET', pair_key, 'buckets', 'turned_ms'))
  local buckets = packed and cmsgpack.unpack(packed) or {}
  for _, bucket in pairs(buckets) do refill(bucket) end
  return buckets, turned_ms
end

local function save_buckets(pair_key, buckets)
  if not next(buckets) then return redis.call('HDEL', pair_key, 'buckets') end
  local is_new = redis.call('HSET', pair_key, 'buckets', cmsgpack.pack(buckets)) > 0
  if is_new then redis.call('PEXPIRE', pair_key, STATE_TTL_MS) end  -- settle.lua renews it
end

local function new_bucket(dimension, limit, window_ms)
  local in_windows = dimension == 'ramp' or window_ms <= 1000 and limit <= LOG_LIMIT
  return {limit = limit, window_ms = window_ms, level = limit, at_ms = now, pace = 1, slowed_ms = now, credit = 0,
    debt = 0, corrected_ms = 0, log = in_windows and {} or nil,
    ends_ms = counts_emails(dimension) and quota_ends_ms() or nil}
end

-- Returns how much must stay in a bucket, so that calls that arrive a little early are not refused.
local function margin_of(bucket, cost)
  return bucket.window_ms > 3600000 and 0 or max(0, min(bucket.limit / 100, 2 * cost, bucket.limit - cost))
end

-- Returns when a window has room for one more call, counting the calls up to until_ms. A full window allows no call
-- from `span` before its last call to `span` after its first, so there may be gaps. Calls leave `apart_ms` apart.
local function window_opens_ms(bucket, until_ms)
  local log, others, span, at_ms = bucket.log, floor(bucket.limit) - 1, span_ms(bucket), now
  for index, first_ms in ipairs(log) do
    local last_ms, gap_ms = log[index + others] or NEVER, span
    if last_ms > until_ms or last_ms - first_ms >= span then last_ms, gap_ms = first_ms, bucket.apart_ms or 0 end
    if last_ms - gap_ms < at_ms and at_ms < first_ms + gap_ms then at_ms = first_ms + gap_ms end
  end
  return at_ms
end

-- Returns when there is room for a call. `level`: how much the bucket has for this job. `rate`: its refill in one ms.
local function ready_ms(bucket, cost, level, rate)
  if cost <= 0 then return now end
  if bucket.log then return window_opens_ms(bucket, NEVER) end
  local missing = cost + margin_of(bucket, cost) - level
  if missing <= 0 then return now end
  if bucket.ends_ms then return bucket.ends_ms + (ceil(missing / bucket.limit) - 1) * DAY_MS end
  return now + ceil(missing / rate)
end

-- Takes `cost` out of a bucket for a call that leaves at at_ms. A negative `cost` is put back.
local function charge(bucket, cost, at_ms)
  local log = bucket.log
  bucket.level = min(bucket.limit, bucket.level - cost)
  if not log or cost == 0 then return end
  local index = #log
  while index > 0 and log[index] > at_ms do index = index - 1 end
  if cost > 0 then table.insert(log, index + 1, at_ms)
  elseif log[index] == at_ms then table.remove(log, index) end
end
