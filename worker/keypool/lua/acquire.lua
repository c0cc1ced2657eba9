-- acquire: reserve one call with one key, now or within the wait allowed; or say when to come back.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id  3 model or ''  4 topic (model or from-domain)  5 tokens  6 emails (recipients)
--       7 the longest wait, in ms  8 ticket of its deferral ('-' where that promised nothing, '' new)  9 by (task id)
--       10 'bulk' or ''  11 lease, in ms  12 opening (calls on their way while limits are unknown)
--       13 what to go by until an account's own limits are known, '' or as JSON: each [dimension, limit, window ms]
--       then of each candidate its id and its account
-- Returns one of these lists:
--         'lease', index, wait_ms, spare emails (-1: no quota is known) · 'deferred', wait_ms, reason, ticket
--         'busy', wait_ms, reason · 'disabled', reason · 'unfit', reason · 'too_large', limit · 'remap', id, account, …

local A_FEW, BEFORE = 2, 13  -- keys that are looked at, words before the candidates

local now, root, lease_id, topic, by, bulk = clock(ARGV[1]), KEYS[1], ARGV[2], 't:' .. ARGV[4], ARGV[9], ARGV[10] ~= ''
local ticket, count = read_ticket(ARGV[8]), (#ARGV - BEFORE) / 2
local cost = {requests = 1, tokens = tonumber(ARGV[5]), emails = tonumber(ARGV[6])}
local job = {cost = cost, max_wait = tonumber(ARGV[7]), ticket = ticket, by = by, bulk = bulk,
  opening = tonumber(ARGV[12]), own = bulk and BULK or INTERACTIVE, first_limits = ''}
if ARGV[13] ~= '' then
  local buckets = {}
  for _, first in ipairs(cjson.decode(ARGV[13])) do buckets[first[1]] = new_bucket(first[1], first[2], first[3], now) end
  job.first_limits = pack_buckets(buckets)
end
local leases, inflight, trail = root .. ':leases', root .. ':inflight', root .. ':audit'
local host, model, waits = root .. ':host', root .. ':model:' .. ARGV[3], root .. ':waits:' .. ARGV[3]

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 16)) do
  local record = end_lease(root, expired)
  if record then audit(trail, now, 'lease_expired', 'key', record.key, 'not settled in time', 0, record.by) end
end

-- Hosts, models and accounts seldom rest: one look says whether any has a record at all.
local records = {host, model}
for at = 1, count do records[at + 2] = root .. ':account:' .. ARGV[BEFORE + 2 * at] end
local any_rests = redis.call('EXISTS', unpack(records)) > 0
local shared_ms, shared_reason, probes_host, probes_model = 0, '', false, false
if any_rests then
  local host_until, host_reason, model_until, model_reason
  host_until, host_reason, probes_host = breaker(host, lease_id, now)
  model_until, model_reason, probes_model = breaker(model, lease_id, now)
  shared_ms, shared_reason = later(host_until, host_reason, model_until, model_reason)
end
local interactive_waits = bulk and now - tonumber(redis.call('GET', waits) or 0) < WAITS_MS

local best, shortest, busy_ms, disabled, unfit, largest_limit, redeemed, own
local remap, scopes = {'remap'}, {}
-- A few keys, the next ones each time, are enough where one of them may be called at once: the better of two is nearly as
-- good as the best of all. Who brings a ticket redeems it at its account, and bulk knows all lines.
local first, enough = 0, count
if count > A_FEW and not bulk and (ticket.kind == '' or ticket.kind == '-') then
  first, enough = tonumber(redis.call('HGET', inflight, 'seq') or 0) % count, A_FEW
end
for looked = 1, count do
  if looked > enough and best and best.now and best.start_ms <= now then break end
  local index = (first + looked - 1) % count + 1
  local id, account = ARGV[BEFORE + 2 * index - 1], ARGV[BEFORE + 2 * index]
  local key_name = root .. ':key:' .. id
  local key = redis.call('HMGET', key_name, 'account', 'state', 'until_ms', 'reason', 'seq', topic)
  if key[1] and key[1] ~= account then
    remap[#remap + 1], remap[#remap + 2] = id, key[1]
  else
    local scope = scopes[account]
    if not scope then
      scope = read_scope(any_rests and records[index + 2],
        root .. ':account_model:' .. account .. ':' .. ARGV[3], job, ticket.account == account or count == 1,
        shared_ms, shared_reason, now)
      scopes[account] = scope
      if ticket.account == account then redeemed = redeem(scope, job) and scope end
    end
    local topic_ms, topic_reason = blocked_topic(key[6], now)
    local until_ms, reason = blocked(key[2], key[3], key[4], now)
    until_ms, reason = later(until_ms, reason, scope.until_ms, scope.reason)
    until_ms, reason = later(topic_ms, topic_reason, until_ms, reason)
    local open = weigh(scope, job, now, until_ms, reason, tonumber(key[5]) or 0)
    open.index, open.id, open.account, open.key_name = index, id, account, key_name
    if account == ticket.account and not open.disabled then own = open end
    local flight_ms = open.now and not open.paced and flight_wait_ms(scope, now)
    if open.too_large then
      largest_limit = max(largest_limit or 0, open.too_large)
    elseif open.disabled then
      if topic_ms < 0 then unfit = open.reason else disabled = open.reason end
    elseif flight_ms and (interactive_waits or flight_ms > 0) then
      busy_ms = min(busy_ms or FLIGHT_MS, flight_ms)
    else
      if better(open, best) then best = open end
      if not shortest or open.queue_ms < shortest.queue_ms then shortest = open end
    end
  end
end

if #remap > 1 then return remap end
if redeemed then save_buckets(redeemed.pair_key, redeemed.buckets) end
-- Asking a busy account again soon beats a long line at another.
if busy_ms and not (best and best.now) then
  if not bulk then redis.call('SET', waits, now, 'PX', 60000) end
  return {'busy', busy_ms + redis.call('HINCRBY', inflight, 'turn', 7) % 60, 'limits are not known yet'}
end
if not best and largest_limit and not disabled and not unfit then return {'too_large', largest_limit} end
if not best and unfit and not disabled then return {'unfit', unfit} end
if not best then return {'disabled', disabled or 'no key'} end
if not best.now then
  open_buckets(best.scope, now)
  local large = own and has_claim(own.scope, job) and own or best
  local claimed_ms = claim(large, job, now)
  if claimed_ms then
    return {'deferred', claimed_ms - now, large.reason,
      'c' .. string.format('%.0f', claimed_ms) .. ' ' .. large.account}
  end
  -- By the shortest line, not by who opens first: a job that may pass the lines now joins one if it is deferred.
  open_buckets(shortest.scope, now)
  local reason = shortest.reason ~= '' and shortest.reason or 'earlier jobs come first'
  local come_ms, its_ticket = queue_up(inflight, shortest, job, now)
  return {'deferred', come_ms - now, reason, its_ticket}
end

if own and own.scope ~= best.scope and unclaim(own.scope, job, now) then
  save_buckets(own.scope.pair_key, own.scope.buckets)
end
if best.scope.buckets then unclaim(best.scope, job, now) end
local spare, dimensions = take(best, job, now)
-- Not its account: only a learned one is kept there, or a configured one could never take its place.
local seq = redis.call('HINCRBY', inflight, 'seq', 1)
redis.call('HSET', best.key_name, 'used_ms', best.start_ms, 'seq', seq)
if seq % 64 == 1 then redis.call('PEXPIRE', inflight, STATE_TTL_MS) end
redis.call('HINCRBY', inflight, 'key:' .. best.id, 1)
redis.call('ZADD', leases, best.start_ms + tonumber(ARGV[11]), lease_id)
redis.call('HSET', root .. ':leased', lease_id,
  cmsgpack.pack({key = best.id, cost = cost, start_ms = best.start_ms, by = by, left = best.left, dims = dimensions}))
if probes_host then try_alone(host, lease_id, now) end
if probes_model then try_alone(model, lease_id, now) end
return {'lease', best.index, best.start_ms - now, spare}
