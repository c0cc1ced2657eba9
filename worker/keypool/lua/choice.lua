-- Stands before acquire: how good a candidate is, which of two is better, and a place in line for who must come back.
--
-- Every bucket counts what it has promised to deferred jobs. A deferred job is told the instant at which its call will
-- fit behind those promises; who comes new queues behind them too, who comes back with a ticket redeems his own.

local LOST_TICKET_MS = 30000  -- a ticket this late will not come: its job was revoked, or its queue is not consumed

-- While no rate is known, only few calls may be on their way at once: what is on its way when a limit is reached is
-- refused together. A refusal comes fast, so a call that is older than FLIGHT_MS will not be refused any more.
local FLIGHT_MS = 250

-- A host or model that failed several times in a row rests, and is then tried by one job before the others.
-- Returns until when it blocks, why, and whether this job would be the one that tries.
local function breaker(scope_key, now_ms)
  local record = redis.call('HMGET', scope_key, 'state', 'until_ms', 'reason', 'faults', 'probe_ms')
  local until_ms, reason = blocked(record[1], record[2], record[3], now_ms)
  if until_ms ~= 0 or (tonumber(record[4]) or 0) < BREAKER_FAULTS then return until_ms, reason, false end
  local probe_ms = tonumber(record[5]) or 0
  if probe_ms > now_ms then return probe_ms, record[3] or 'probing', false end
  return 0, '', true
end

local function read_scope(account_key, pair_key, opening, now_ms)
  local owner = redis.call('HMGET', account_key, 'state', 'until_ms', 'reason')
  local pair = redis.call('HMGET', pair_key, 'state', 'until_ms', 'reason', 'buckets', 'window', 'flying')
  local scope = {account = {blocked(owner[1], owner[2], owner[3], now_ms)}, pair_key = pair_key,
    pair = {blocked(pair[1], pair[2], pair[3], now_ms)}, buckets = buckets_of(pair[4]),
    window = tonumber(pair[5]) or opening, flying = buckets_of(pair[6])}
  for _, bucket in pairs(scope.buckets) do
    if (bucket.promised_ms or 0) + LOST_TICKET_MS < now_ms then bucket.promised = 0 end
  end
  return scope
end

-- How long until one more call may be on its way: 0 now. Also forgets the calls that are older.
local function flight_wait_ms(scope, now_ms)
  local young = {}
  for _, start_ms in ipairs(scope.flying) do
    if start_ms + FLIGHT_MS > now_ms then young[#young + 1] = start_ms end
  end
  table.sort(young)
  scope.flying = young
  local oldest = young[#young - math.floor(scope.window) + 1]
  return oldest and oldest + FLIGHT_MS - now_ms or 0
end

local function take_off(scope, start_ms)
  table.insert(scope.flying, start_ms)
  redis.call('HSET', scope.pair_key, 'flying', cmsgpack.pack(scope.flying))
  redis.call('PEXPIRE', scope.pair_key, STATE_TTL_MS)
end

local function save_scope(scope)
  redis.call('HSET', scope.pair_key, 'buckets', cmsgpack.pack(scope.buckets))
  redis.call('PEXPIRE', scope.pair_key, STATE_TTL_MS)
end

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
    local needed, promised = cost_in(dimension, cost), bucket.promised or 0
    if needed > 0 and promised > 0 then
      local missing = promised
      if not bucket.log then
        missing = promised + needed + margin_of(bucket, needed) - level_at(bucket, open.earliest_ms)
      end
      local ready = open.earliest_ms + math.ceil(math.max(0, missing) / rate_of(bucket))
      open.queue_ms = math.max(open.queue_ms, ready)
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

-- What a call is likely to use in the end: tokens are reserved for the longest answer, and most answers are shorter.
-- A little less than that, since a job that comes a little early waits in the process, and one too late wastes capacity.
local function likely(bucket, dimension, cost) return cost_in(dimension, cost) * (bucket.used_share or 1) * 0.95 end

local function redeem(scope, cost)
  for dimension, bucket in pairs(scope.buckets) do
    bucket.promised = math.max(0, (bucket.promised or 0) - likely(bucket, dimension, cost))
  end
end

-- Returns the instant at which to come back, and promises the capacity that will be there.
local function queue_up(counters, open, cost)
  for dimension, bucket in pairs(open.scope.buckets) do
    bucket.promised = (bucket.promised or 0) + likely(bucket, dimension, cost)
    bucket.promised_ms = math.max(bucket.promised_ms or 0, open.queue_ms)
  end
  if next(open.scope.buckets) then save_scope(open.scope) end
  if open.paced then return open.queue_ms end
  -- The rate is unknown: one second holds the crowd, each at an instant of its own.
  return open.queue_ms + redis.call('HINCRBY', counters, 'turn', 61) % 1000
end
