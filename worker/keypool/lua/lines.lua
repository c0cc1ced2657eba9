-- Stands before acquire: a place in line for who must come back.
--
-- Every bucket remembers what it has promised to deferred jobs, and for when. A deferred job is told the instant at which
-- its call will fit behind those promises; who comes new queues behind them too, who comes back with a ticket redeems its
-- own. A ticket names the line, the instant and the account; '-' is that of a job that was promised nothing.
--
-- Who comes back and finds no room (a rest, answers longer than those before) lines up again, before all whose instants
-- are still to come. Interactive jobs come before bulk ones in either line.

local ALL_LINES = {'again', 'promised', 'bulk_again', 'bulk'}
local WAITS_MS = 500          -- so long after it asked in vain an interactive job is known to wait
local BULK_AHEAD_MS = 1000    -- so long at most a bulk job may hold an instant
local EARLY = 0.05            -- who must come back is told to come a little early: late would waste what is there by then

-- A line is a list of {until_ms, amount}: promises for about the same time share an entry, those far off more than
-- those near, so that a line of hours is short as well.
local function forget_the_lost(bucket, now_ms)
  for _, name in ipairs(ALL_LINES) do
    local line = bucket[name]
    while line and line[1] and line[1].until_ms + LOST_TICKET_MS < now_ms do table.remove(line, 1) end
    if line and not line[1] then bucket[name] = nil end
  end
  forget_lost_claims(bucket, now_ms)
end

local function promise(bucket, name, amount, at_ms, now_ms)
  local line = bucket[name] or {}
  bucket[name] = line
  for _, entry in ipairs(line) do
    if entry.until_ms >= at_ms then
      entry.amount = entry.amount + amount
      return
    end
  end
  line[#line + 1] = {until_ms = at_ms + max(1000, floor((at_ms - now_ms) / 8)), amount = amount}
end

-- Takes a promise back, if it is not forgotten.
local function redeem_in(bucket, name, amount, at_ms)
  local line = bucket[name] or {}
  for place, entry in ipairs(line) do
    if entry.until_ms >= at_ms then
      entry.amount = entry.amount - amount
      if entry.amount < 1e-6 then table.remove(line, place) end
      break
    end
  end
  if not line[1] then bucket[name] = nil end
end

-- What a bucket has promised in some lines, as it is likely to be used in the end: tokens are reserved for the longest
-- answer, and most answers are shorter.
local function promised_in(bucket, names)
  local amount = 0
  for _, name in ipairs(names) do
    for _, entry in ipairs(bucket[name] or {}) do amount = amount + entry.amount end
  end
  return amount * (bucket.used_share or 1)
end

-- The instant at which a call fits behind what was promised in the lines given.
local function behind(earliest_ms, scope, job, names)
  local at_ms = earliest_ms
  for dimension, bucket in pairs(scope.buckets) do
    local needed, ahead = cost_in(dimension, job.cost), promised_in(bucket, names)
    if needed > 0 and ahead > 0 then
      local level, rate, missing = free_in(bucket, job, earliest_ms), rate_of(bucket), ahead
      if not bucket.log then missing = ahead + needed + margin_of(bucket.limit, bucket.window_ms, needed) - level end
      if not bucket.ends_ms then
        at_ms = max(at_ms, earliest_ms + ceil(max(0, missing) / rate))
      elseif missing > 0 then  -- one quota after the other
        at_ms = max(at_ms, quota_ends_ms(earliest_ms) + (ceil(missing / bucket.limit) - 1) * DAY_MS)
      end
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

-- What a ticket says: its line ('p' who had come new, 'a' who had lined up again, 'c' who claims), instant and account.
local function read_ticket(ticket)
  if #ticket < 2 then return {kind = ticket, at_ms = 0, account = ticket} end
  local kind, at_ms, account = ticket:match('^([pac])(%d+) (.*)$')
  return {kind = kind or ticket, at_ms = tonumber(at_ms) or 0, account = account or ticket}
end

-- The lines before a job: `before`, which it starts behind, and `behind`, which it queues behind, in the line `joins`,
-- should it have to come back.
local function find_lines(job)
  if job.joins then return end
  local own, kind = job.own, job.ticket.kind
  job.joins = kind == '' and own.new or own.again
  job.behind = {job.joins, unpack(kind == '' and own.before_new or own.before_again)}
  job.before = kind == '' and job.behind or (kind == 'a' or kind == 'c') and own.before_again or own.before_new
end

-- Takes back what was promised to a job that is here again. Returns whether anything was.
local function redeem(scope, job)
  local ticket = job.ticket
  if ticket.kind == 'c' then return false end  -- its promise was redeemed when it claimed
  for dimension, bucket in pairs(scope.buckets) do
    local needed = cost_in(dimension, job.cost)
    if needed > 0 then redeem_in(bucket, ticket.kind == 'a' and job.own.again or job.own.new, needed, ticket.at_ms) end
  end
  return true
end

-- Promises the capacity that will be there. Returns the instant at which to come back, and the ticket.
local function queue_up(counters, open, job, now_ms)
  find_lines(job)
  local at_ms, kind = open.queue_ms, job.joins == job.own.again and 'a' or 'p'
  for dimension, bucket in pairs(open.scope.buckets) do
    local needed = cost_in(dimension, job.cost)
    if needed > 0 then promise(bucket, job.joins, needed, at_ms, now_ms) end
  end
  save_buckets(open.scope.pair_key, open.scope.buckets)
  local ticket = kind .. string.format('%.0f', at_ms) .. ' ' .. open.account
  -- No earlier than it may wait for its turn in the process, or it would have to line up again.
  if open.paced then return at_ms - floor(min(EARLY * (at_ms - now_ms), open.patience / 2)), ticket end
  -- The rate is unknown: one second holds the crowd, each at an instant of its own; bulk comes a second later.
  return at_ms + redis.call('HINCRBY', counters, 'turn', 61) % 1000 + (job.bulk and 1000 or 0), ticket
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
