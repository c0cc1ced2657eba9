-- Stands before acquire, before lines: what is saved for large jobs.
--
-- A large job that comes back and does not find its tokens may claim them, and one that would have to wait for long does so
-- when it comes: from then on half of what refills is saved for it, and the other half lets smaller jobs pass. Claims are
-- served one after another, each line its own.

local INTERACTIVE = {new = 'promised', again = 'again', claims = 'claims', before_again = {}, before_new = {'again'}}
local BULK = {new = 'bulk', again = 'bulk_again', claims = 'bulk_claims', before_again = {'again', 'promised'},
  before_new = {'again', 'promised', 'bulk_again'}}
local INTERACTIVE_CLAIMS, ALL_CLAIMS = {INTERACTIVE}, {INTERACTIVE, BULK}
local LOST_TICKET_MS = 30000  -- a ticket this late will not come: its job was revoked, or its queue is not consumed
local LARGE_MS = 5000         -- a job is large where its tokens take longer than this to refill
local LONG_MS = 60000         -- such a wait is for tokens of the day: others need not stand behind it
local CLAIMS = 16             -- so many large jobs wait in a line, the others come back and try

-- Ends a claim; the saving for the next one begins.
local function close_claim(bucket, line, place, now_ms)
  local claims = bucket[line.claims]
  table.remove(claims, place)
  if place == 1 and claims[1] then claims[1].since_ms = now_ms end
  if not claims[1] then bucket[line.claims] = nil end
end

local function forget_lost_claims(bucket, now_ms)
  for _, line in ipairs(ALL_CLAIMS) do
    local claims = bucket[line.claims]
    while claims and claims[1] and claims[1].due_ms + LOST_TICKET_MS < now_ms do close_claim(bucket, line, 1, now_ms) end
  end
end

-- What is in a bucket for a job at an instant, and how fast it refills for it: others' savings are not for it.
local function free_in(bucket, job, at_ms)
  if bucket.log then return 0, rate_of(bucket) end
  local level, rate = level_at(bucket, at_ms), rate_of(bucket)
  if not (bucket.claims or bucket.bulk_claims) then return level, rate end
  for _, line in ipairs(job.bulk and ALL_CLAIMS or INTERACTIVE_CLAIMS) do
    local first = bucket[line.claims] and bucket[line.claims][1]
    if first and first.by ~= job.by then
      local saved = min(first.need, max(0, at_ms - first.since_ms) * rate_of(bucket) / 2)
      level, rate = level - saved, saved < first.need and rate / 2 or rate
    end
  end
  return level, rate
end

local function has_claim(scope, job)
  for _, bucket in pairs(scope.buckets) do
    for _, one in ipairs(bucket[job.own.claims] or {}) do
      if one.by == job.by then return true end
    end
  end
  return false
end

-- Whether a job is to claim its tokens: a large one that came back in vain, since smaller ones would take what it waits for
-- each time; and one that has to wait for the tokens of a day, if it is the largest that does and nobody else stands in line.
local function may_claim(bucket, job, needed, now_ms)
  if needed <= LARGE_MS * rate_of(bucket) then return false end
  if bucket.window_ms <= LONG_MS then return job.ticket.at_ms > 0 end
  for _, one in ipairs(bucket[job.own.claims] or {}) do
    if one.by ~= job.by and one.need > needed then return false end
  end
  if job.ticket.at_ms > 0 then return true end
  for _, line in ipairs({job.own.new, unpack(job.own.before_new)}) do
    if bucket[line] then return false end
  end
  return ready_ms(bucket, needed, now_ms, free_in(bucket, job, now_ms)) - now_ms > LONG_MS
end

-- The place of a job among the claims of its line, the last one if it is new; nil where there is none.
local function place_of(claims, job, bucket, needed, now_ms)
  for place, one in ipairs(claims) do
    if one.by == job.by then return place end
  end
  if #claims == CLAIMS then return nil end
  local need = needed + margin_of(bucket.limit, bucket.window_ms, needed)
  -- Of what is there now smaller jobs may take as much as it lacks.
  local saved = max(0, 2 * level_at(bucket, now_ms) - need)
  claims[#claims + 1] = {by = job.by, need = need, since_ms = now_ms - floor(saved / (rate_of(bucket) / 2))}
  return #claims
end

-- Such a job does not queue up (again). Returns the earliest instant at which what it needs may have been saved, nil where it
-- claims nothing.
local function claim(open, job, now_ms)
  if job.by == '' then return nil end
  local earliest_ms
  for dimension, bucket in pairs(open.scope.buckets) do
    local needed = cost_in(dimension, job.cost)
    if dimension:sub(1, 1) == 't' and may_claim(bucket, job, needed, now_ms) then
      local claims = bucket[job.own.claims] or {}
      local place = place_of(claims, job, bucket, needed, now_ms)
      if place then
        local missing = -level_at(bucket, now_ms)
        for at = 1, place do missing = missing + claims[at].need end
        claims[place].due_ms = max(now_ms + 1000, open.earliest_ms, now_ms + ceil(missing / rate_of(bucket)))
        bucket[job.own.claims], earliest_ms = claims, max(earliest_ms or 0, claims[place].due_ms)
      end
    end
  end
  if earliest_ms then save_buckets(open.scope.pair_key, open.scope.buckets) end
  return earliest_ms
end

local function unclaim(scope, job, now_ms)
  if not has_claim(scope, job) then return false end
  for _, bucket in pairs(scope.buckets) do
    for place, one in ipairs(bucket[job.own.claims] or {}) do
      if one.by == job.by then close_claim(bucket, job.own, place, now_ms) break end
    end
  end
  return true
end
