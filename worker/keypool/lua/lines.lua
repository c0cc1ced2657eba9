-- Stands before acquire: a place in line for who must come back.
--
-- Every bucket counts what it has promised to deferred jobs. A deferred job is told the instant at which its call will
-- fit behind those promises; who comes new queues behind them too, who comes back with a ticket redeems his own.
--
-- There are two lines, and the interactive one always comes first: a bulk job waits behind what was promised in both,
-- and redeems its ticket behind what was promised to interactive ones meanwhile.
--
-- A large job that comes back and does not find its tokens may claim them: from then on half of what refills is saved
-- for it, and the other half lets smaller jobs pass. Claims are served one after another.

local INTERACTIVE = {amount = 'promised', until_ms = 'promised_ms', claims = 'claims'}
local BULK = {amount = 'bulk', until_ms = 'bulk_ms', claims = 'bulk_claims'}
local INTERACTIVE_LINE, BOTH_LINES = {INTERACTIVE}, {INTERACTIVE, BULK}
local LOST_TICKET_MS = 30000  -- a ticket this late will not come: its job was revoked, or its queue is not consumed
local LARGE_MS = 5000         -- a job is large where its tokens take longer than this to refill
local CLAIMS = 16             -- so many large jobs wait in a line, the others come back and try
local WAITS_MS = 500          -- so long after it asked in vain an interactive job is known to wait
local BULK_AHEAD_MS = 1000    -- so long at most a bulk job may hold an instant

-- Ends a claim; the saving for the next one begins.
local function close_claim(bucket, line, place, now_ms)
  local claims = bucket[line.claims]
  table.remove(claims, place)
  if place == 1 and claims[1] then claims[1].since_ms = now_ms end
  if not claims[1] then bucket[line.claims] = nil end
end

-- What is in a bucket for a job at an instant, and how fast it refills for it: others' savings are not for it.
local function free_in(bucket, job, at_ms)
  if bucket.log then return 0, rate_of(bucket) end
  local rate = rate_of(bucket)
  local level = min(bucket.limit, bucket.level + max(0, at_ms - bucket.at_ms) * rate)
  if not (bucket.claims or bucket.bulk_claims) then return level, rate end
  for _, line in ipairs(job.bulk and BOTH_LINES or INTERACTIVE_LINE) do
    local first = bucket[line.claims] and bucket[line.claims][1]
    if first and first.by ~= job.by then
      local saved = min(first.need, max(0, at_ms - first.since_ms) * rate_of(bucket) / 2)
      level, rate = level - saved, saved < first.need and rate / 2 or rate
    end
  end
  return level, rate
end

local function forget_the_lost(bucket, now_ms)
  for _, line in ipairs(BOTH_LINES) do
    if bucket[line.amount] and (bucket[line.until_ms] or 0) + LOST_TICKET_MS < now_ms then bucket[line.amount] = 0 end
    local claims = bucket[line.claims]
    while claims and claims[1] and claims[1].due_ms + LOST_TICKET_MS < now_ms do close_claim(bucket, line, 1, now_ms) end
  end
end

-- The instant at which a call fits behind what was promised to the lines given.
local function behind(earliest_ms, scope, job, lines)
  local at_ms = earliest_ms
  for dimension, bucket in pairs(scope.buckets) do
    local needed, promised = cost_in(dimension, job.cost), 0
    for _, line in ipairs(lines) do promised = promised + (bucket[line.amount] or 0) end
    if needed > 0 and promised > 0 then
      local level, rate, missing = free_in(bucket, job, earliest_ms), rate_of(bucket), promised
      if not bucket.log then missing = promised + needed + margin_of(bucket.limit, bucket.window_ms, needed) - level end
      at_ms = max(at_ms, earliest_ms + ceil(max(0, missing) / rate))
    end
  end
  return at_ms
end

-- How long a bulk job may wait for its instant: no longer than one call is worth, and behind nobody else's instant.
local function bulk_patience(scope, job, now_ms)
  local longest = BULK_AHEAD_MS
  for dimension, bucket in pairs(scope.buckets) do
    local needed = cost_in(dimension, job.cost)
    if bucket.log and (bucket.log[#bucket.log] or 0) > now_ms then return 0 end
    if needed > 0 then longest = min(longest, (bucket.log and 1 or needed) / rate_of(bucket)) end
  end
  return longest
end

-- What a call is likely to use in the end: tokens are reserved for the longest answer, and most answers are shorter.
-- A little less than that, since a job that comes a little early waits in the process, and one too late wastes capacity.
local function likely(bucket, dimension, cost) return cost_in(dimension, cost) * (bucket.used_share or 1) * 0.95 end

local function has_claim(scope, job)
  for _, bucket in pairs(scope.buckets) do
    for _, one in ipairs(bucket[job.line.claims] or {}) do
      if one.by == job.by then return true end
    end
  end
  return false
end

-- Takes back what was promised to a job that is here again. Returns whether anything was.
local function redeem(scope, job)
  if has_claim(scope, job) then return false end  -- its promise was redeemed when it claimed
  for dimension, bucket in pairs(scope.buckets) do
    bucket[job.line.amount] = max(0, (bucket[job.line.amount] or 0) - likely(bucket, dimension, job.cost))
  end
  return true
end

-- A large job that came back in vain does not queue up again: smaller ones would take what it waits for each time.
-- Returns the earliest instant at which what it needs may have been saved, nil where it is not large.
local function claim(open, job, now_ms)
  if job.ticket == '' or job.ticket == '-' or job.by == '' then return nil end
  local earliest_ms
  for dimension, bucket in pairs(open.scope.buckets) do
    local needed = cost_in(dimension, job.cost)
    if dimension:sub(1, 1) == 't' and needed > LARGE_MS * rate_of(bucket) then
      local claims, place = bucket[job.line.claims] or {}, nil
      for at, one in ipairs(claims) do place = place or one.by == job.by and at end
      if not place and #claims < CLAIMS then
        place = #claims + 1
        claims[place] = {by = job.by, need = needed + margin_of(bucket.limit, bucket.window_ms, needed), since_ms = now_ms}
      end
      if place then
        local missing = -level_at(bucket, now_ms)
        for at = 1, place do missing = missing + claims[at].need end
        claims[place].due_ms = max(now_ms + 1000, open.earliest_ms, now_ms + ceil(missing / rate_of(bucket)))
        bucket[job.line.claims], earliest_ms = claims, max(earliest_ms or 0, claims[place].due_ms)
      end
    end
  end
  if earliest_ms then save_buckets(open.scope.pair_key, open.scope.buckets) end
  return earliest_ms
end

local function unclaim(scope, job, now_ms)
  if not has_claim(scope, job) then return false end
  for _, bucket in pairs(scope.buckets) do
    for place, one in ipairs(bucket[job.line.claims] or {}) do
      if one.by == job.by then close_claim(bucket, job.line, place, now_ms) break end
    end
  end
  return true
end

-- Returns the instant at which to come back, and promises the capacity that will be there.
local function queue_up(counters, open, job)
  local line = job.line
  for dimension, bucket in pairs(open.scope.buckets) do
    bucket[line.amount] = (bucket[line.amount] or 0) + likely(bucket, dimension, job.cost)
    bucket[line.until_ms] = max(bucket[line.until_ms] or 0, open.queue_ms)
  end
  save_buckets(open.scope.pair_key, open.scope.buckets)
  if open.paced then return open.queue_ms end
  -- The rate is unknown: one second holds the crowd, each at an instant of its own; bulk comes a second later.
  return open.queue_ms + redis.call('HINCRBY', counters, 'turn', 61) % 1000 + (job.bulk and 1000 or 0)
end

-- How many more emails the known quotas allow, so that others may go in the same call; -1 where none is known.
local function spare_emails(buckets, now_ms)
  local spare = -1
  for dimension, bucket in pairs(buckets) do
    if dimension:sub(1, 1) == 'e' then
      local left = max(0, floor(level_at(bucket, now_ms)))
      spare = spare < 0 and left or min(spare, left)
    end
  end
  return spare
end
