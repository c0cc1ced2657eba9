-- Stands before settle: what an answer teaches about limits.

-- observed: {dimension, limit, window_ms, remaining or '' …} four by four, from `first` in `values`.
local function learn_limits(buckets, values, first, now_ms)
  local learned = {}
  for place = first, #values - 3, 4 do
    local dimension, limit, window_ms = values[place], tonumber(values[place + 1]), tonumber(values[place + 2])
    local remaining = tonumber(values[place + 3])
    local bucket = buckets[dimension]
    if not bucket or bucket.limit ~= limit or bucket.window_ms ~= window_ms then
      learned[#learned + 1] = dimension .. '=' .. values[place + 1]
      local windowed = window_ms <= 1000 and limit <= LOG_LIMIT
      bucket = {limit = limit, window_ms = window_ms, level = limit, at_ms = now_ms,
        line_ms = bucket and bucket.line_ms, log = windowed and (bucket and bucket.log or {}) or nil}
      while bucket.log and #bucket.log > limit do table.remove(bucket.log, 1) end
      buckets[dimension] = bucket
    end
    -- What the provider has left is known to it alone; calls still in flight make it less, never more.
    if remaining and not bucket.log then
      bucket.level, bucket.at_ms = math.min(level_at(bucket, now_ms), remaining), now_ms
    end
  end
  return learned
end

-- Puts the estimate right, or gives back what a refused call did not use.
local function correct(buckets, record, tokens, counted, now_ms)
  for dimension, bucket in pairs(buckets) do
    local back = cost_in(dimension, record.cost)
    if counted then back = cost_in(dimension, {requests = 0, emails = 0, tokens = record.cost.tokens - (tokens or record.cost.tokens)}) end
    if back ~= 0 and not (counted and bucket.log) then charge(bucket, -back, record.start_ms, now_ms) end
  end
end
