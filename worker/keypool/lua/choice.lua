-- Stands before acquire, behind lines: how good a candidate is, and which of two is better.

-- While no rate is known, only few calls may be on their way at once: what is on its way when a limit is reached is
-- refused together. A refusal comes fast, so a call that is older than FLIGHT_MS will not be refused any more.
local FLIGHT_MS = 250

-- Of two blocks the one that counts: what is disabled, else what opens later.
local function later(until_ms, reason, other_ms, other_reason)
  if until_ms < 0 or other_ms >= 0 and until_ms >= other_ms then return until_ms, reason end
  return other_ms, other_reason
end

-- Makes tables of an account's buckets, for who must know more than a glance tells, or change them.
local function open_buckets(scope, now_ms)
  if scope.buckets then return end
  scope.buckets = buckets_of(scope.text)
  for _, bucket in pairs(scope.buckets) do
    forget_the_lost(bucket, now_ms)
    if bucket.at_ms - now_ms > STEP_MS then bring_up(bucket, now_ms) end
  end
end

-- What holds for every key of an account, and for this model: when it opens, and its buckets as text. Most accounts are
-- only glanced at; `open`: not this one, nor any for a bulk job, which has more to know.
local function read_scope(account_key, pair_key, job, open, shared_ms, shared_reason, now_ms)
  local pair = redis.call('HMGET', pair_key, 'state', 'until_ms', 'reason', 'limits', 'window', 'flying', 'from_tokens')
  local until_ms, reason = blocked_from(pair[7], job.cost.tokens, blocked(pair[1], pair[2], pair[3], now_ms))
  until_ms, reason = later(until_ms, reason, shared_ms, shared_reason)
  if account_key then
    local owner = redis.call('HMGET', account_key, 'state', 'until_ms', 'reason')
    local owner_ms, owner_reason = blocked(owner[1], owner[2], owner[3], now_ms)
    until_ms, reason = later(owner_ms, owner_reason, until_ms, reason)
  end
  local scope = {pair_key = pair_key, text = pair[4] or job.first_limits, until_ms = until_ms, reason = reason, buckets = nil,
    window = tonumber(pair[5]) or job.opening, flying = unpacked(pair[6])}
  if open or job.bulk then open_buckets(scope, now_ms) end
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
  local oldest = young[#young - floor(scope.window) + 1]
  return oldest and oldest + FLIGHT_MS - now_ms or 0
end

-- When an account has room for a call, in which dimension that takes longest ('' in none), its head-room, whether a
-- request limit is known, and the limit that the call is too large for. Nothing where it takes more than a look to tell.
local function glance(text, cost, now_ms)
  local earliest_ms, why, headroom, paced, too_large, place = now_ms, '', 1, false, nil, 2
  for _ = 1, text:byte() or 0 do
    local dimension, limit, window_ms, level, at_ms, pace = struct.unpack(WEIGHED, text, place)
    local needed, rate = cost_in(dimension, cost), pace * limit / window_ms
    if needed > limit then too_large = max(too_large or 0, limit) end
    if now_ms > at_ms then level = level + (now_ms - at_ms) * rate end
    if level > limit then level = limit end
    if needed > 0 then
      local missing = needed + margin_of(limit, window_ms, needed) - level
      if missing > 0 and now_ms + ceil(missing / rate) > earliest_ms then
        earliest_ms, why = now_ms + ceil(missing / rate), dimension
      end
    end
    if level / limit < headroom then headroom = level / limit end
    paced = paced or dimension == 'rpm' or dimension == 'rps'
    place = place + 1 + #dimension + 8 * NUMBERS
  end
  if place <= #text then return nil end
  return earliest_ms, why, headroom, paced, too_large
end

-- The same by the buckets, with their logs and claims.
local function look(buckets, job, now_ms)
  local earliest_ms, why, headroom, paced, too_large = now_ms, '', 1, false, nil
  for dimension, bucket in pairs(buckets) do
    local needed = cost_in(dimension, job.cost)
    if needed > bucket.limit then too_large = max(too_large or 0, bucket.limit) end
    local level, rate = free_in(bucket, job, now_ms)
    local ready = ready_ms(bucket, needed, now_ms, level, rate)
    if ready > earliest_ms then earliest_ms, why = ready, dimension end
    headroom = min(headroom, bucket.log and headroom_of(bucket, now_ms) or level / bucket.limit)
    paced = paced or dimension == 'rpm' or dimension == 'rps'
  end
  return earliest_ms, why, headroom, paced, too_large
end

-- until_ms, reason: what blocks the candidate for the longest. seq: the greater, the later it was used.
local function weigh(scope, job, now_ms, until_ms, reason, seq)
  local earliest_ms, why, headroom, paced, too_large
  if not scope.buckets then
    earliest_ms, why, headroom, paced, too_large = glance(scope.text, job.cost, now_ms)
    if not earliest_ms then open_buckets(scope, now_ms) end
  end
  if scope.buckets then earliest_ms, why, headroom, paced, too_large = look(scope.buckets, job, now_ms) end
  if until_ms < 0 then return {disabled = true, reason = reason, too_large = too_large} end
  if until_ms >= earliest_ms then earliest_ms, why = until_ms, reason end
  -- A job has its turn at turn_ms, behind those before it. Where it may wait that long here it takes the earliest instant:
  -- those before it come back within that time, too, and find later ones; an instant left free for them would be lost.
  local queue_ms, turn_ms, patience = earliest_ms, earliest_ms, job.max_wait
  if scope.buckets then
    find_lines(job)
    queue_ms = behind(earliest_ms, scope, job, job.behind)
    turn_ms = job.before == job.behind and queue_ms or behind(earliest_ms, scope, job, job.before)
    if job.bulk then patience = until_ms > now_ms and 0 or min(patience, bulk_patience(scope, job, now_ms)) end
  end
  return {earliest_ms = earliest_ms, reason = why, paced = paced, too_large = too_large, queue_ms = queue_ms,
    start_ms = job.bulk and turn_ms or earliest_ms, now = turn_ms - now_ms <= patience, patience = patience, headroom = floor(headroom * 20),
    seq = seq, scope = scope}
end

local function better(open, best)
  if not best or open.now ~= best.now then return not best or open.now end
  if open.start_ms ~= best.start_ms then return open.start_ms < best.start_ms end
  if open.headroom ~= best.headroom then return open.headroom > best.headroom end
  return open.seq < best.seq
end

-- Takes what a call costs out of buckets that nobody has made tables of. Returns the new text, how many more emails their
-- quotas allow (-1 where there is none), and their dimensions.
local function charge_text(text, cost, now_ms)
  local parts, place, spare, dimensions = {text:sub(1, 1)}, 2, -1, {}
  for at = 2, text:byte() + 1 do
    local dimension, limit, window_ms, level, at_ms, pace, slowed_ms, used_share
    dimension, limit, window_ms, level, at_ms, pace, slowed_ms, used_share, place = struct.unpack(BUCKET, text, place)
    if now_ms > at_ms then level = level + (now_ms - at_ms) * pace * limit / window_ms end
    if now_ms > at_ms or at_ms - now_ms > STEP_MS then at_ms = now_ms end
    level = min(limit, level) - cost_in(dimension, cost)
    if COUNTED[dimension:sub(1, 1)] == 'emails' then
      local left = max(0, floor(level))
      spare = spare < 0 and left or min(spare, left)
    end
    parts[at] = struct.pack(BUCKET, #dimension, dimension, limit, window_ms, level, at_ms, pace, slowed_ms, used_share)
    dimensions[at - 1] = dimension
  end
  return table.concat(parts), spare, table.concat(dimensions, ' ')
end

-- Takes what a call costs out of its account's buckets, and notes its start where no rate is known. Returns how many more
-- emails may go along, and out of which dimensions it was taken.
local function take(open, job, now_ms)
  local scope, fields, spare, dimensions = open.scope, {}, -1, ''
  if not scope.buckets and scope.text ~= '' then
    fields[2], spare, dimensions = charge_text(scope.text, job.cost, now_ms)
    fields[1] = 'limits'
  elseif scope.buckets and next(scope.buckets) then
    charge_all(scope.buckets, job.cost, open.start_ms, now_ms)
    if open.start_ms <= now_ms then open.left = depart(scope.buckets, now_ms) end
    fields[1], fields[2], spare = 'limits', pack_buckets(scope.buckets), spare_emails(scope.buckets, now_ms)
    for dimension in pairs(scope.buckets) do dimensions = dimensions .. ' ' .. dimension end
  end
  if not open.paced then
    table.insert(scope.flying, open.start_ms)
    fields[#fields + 1], fields[#fields + 2] = 'flying', cmsgpack.pack(scope.flying)
  end
  -- Where nothing is new in the record, an earlier settle has said how long it stays.
  if redis.call('HSET', scope.pair_key, unpack(fields)) > 0 then
    redis.call('PEXPIRE', scope.pair_key, STATE_TTL_MS)
  end
  return spare, dimensions
end
