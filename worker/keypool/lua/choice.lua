-- Stands before acquire: how good a candidate is, which of two is better, and a place in line for who must come back.
--
-- Every bucket keeps a line: the moment at which the capacity promised to deferred jobs ends. A deferred job is told the
-- instant at which its call will fit; who comes new queues behind that promise, who comes back with a ticket does not.

-- blocks: {{until_ms, reason}, …} of every scope that covers the candidate, its topic's first.
local function weigh(scope, cost, now_ms, blocks)
  local open = {earliest_ms = now_ms, reason = '', headroom = 1, paced = false}
  for place, block in ipairs(blocks) do
    if block[1] < 0 then open.disabled, open.reason, open.unfit = true, block[2], place == 1 return open end
    if block[1] > open.earliest_ms then open.earliest_ms, open.reason = block[1], block[2] end
  end
  for dimension, bucket in pairs(scope.buckets) do
    local needed = cost_in(dimension, cost)
    if needed > bucket.limit then open.too_large = math.max(open.too_large or 0, bucket.limit) end
    local ready = ready_ms(bucket, needed, now_ms)
    if ready > open.earliest_ms then open.earliest_ms, open.reason = ready, dimension end
    open.headroom = math.min(open.headroom, headroom_of(bucket, now_ms))
    open.paced = open.paced or dimension == 'rpm' or dimension == 'rps'
  end
  open.queue_ms = open.earliest_ms
  for dimension, bucket in pairs(scope.buckets) do
    local needed, spare = cost_in(dimension, cost), 0
    if not bucket.log then spare = level_at(bucket, open.earliest_ms) - margin_of(bucket, needed) - needed end
    if needed > 0 then
      local burst_ms = math.max(0, spare) * bucket.window_ms / bucket.limit
      open.queue_ms = math.max(open.queue_ms, math.ceil((bucket.line_ms or 0) - burst_ms))
    end
  end
  open.headroom = math.floor(open.headroom * 20)
  return open
end

local function better(open, best)
  if not best or open.start_ms ~= best.start_ms then return not best or open.start_ms < best.start_ms end
  if open.headroom ~= best.headroom then return open.headroom > best.headroom end
  return open.seq < best.seq
end

-- Returns the instant at which to come back, and promises the capacity that will be there.
local function queue_up(scope_key, counters, open, cost, now_ms)
  for dimension, bucket in pairs(open.scope.buckets) do
    local worth_ms = cost_in(dimension, cost) * bucket.window_ms / bucket.limit
    bucket.line_ms = math.max(bucket.line_ms or 0, open.earliest_ms) + worth_ms
  end
  if next(open.scope.buckets) then
    redis.call('HSET', scope_key, 'buckets', cmsgpack.pack(open.scope.buckets))
    redis.call('PEXPIRE', scope_key, STATE_TTL_MS)
  end
  if open.paced then return open.queue_ms end
  -- The rate is unknown: one second holds the crowd, each at an instant of its own.
  return open.queue_ms + redis.call('HINCRBY', counters, 'turn', 61) % 1000
end
