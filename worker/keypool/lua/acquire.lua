-- acquire: reserve one call with one key, now or within the wait allowed; or say when to come back.
--
-- KEYS  1 root of all names
-- ARGV  1 now_ms or ''  2 lease id
--       3 what is wanted, as JSON: model, tokens, emails (recipients), wait_ms (the longest), lease_ms, ticket (the
--         ticket of its deferral, '-' where that promised nothing, '' new), by (task id), topic (model or from-domain),
--         opening (calls on their way while limits are unknown), bulk, limits (what to go by until an account's own
--         are known: each [dimension, limit, window ms])
--       4 the candidates, as JSON: their ids, then the account of each
-- Returns one of these as JSON, which the client reads faster than a list:
--         ['lease', index, wait_ms, spare emails (-1: no quota is known)] · ['deferred', wait_ms, reason, ticket]
--         ['busy', wait_ms, reason] · ['disabled', reason] · ['unfit', reason] · ['too_large', limit]
--         ['remap', id, account, …]

local A_FEW = 3

local now, root, lease_id = clock(ARGV[1]), KEYS[1], ARGV[2]
local want, candidates = cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
local ids, accounts, by, bulk, ticket = candidates[1], candidates[2], want.by, want.bulk, read_ticket(want.ticket)
local cost = {requests = 1, tokens = want.tokens, emails = want.emails}
local job = {cost = cost, max_wait = want.wait_ms, ticket = ticket, by = by, bulk = bulk, opening = want.opening,
  own = bulk and BULK or INTERACTIVE, first_limits = ''}
if #want.limits > 0 then
  local buckets = {}
  for _, first in ipairs(want.limits) do buckets[first[1]] = new_bucket(first[2], first[3], now) end
  job.first_limits = pack_buckets(buckets)
end
job.before, job.behind, job.joins = lines_before(bulk, ticket.kind)
local leases, inflight, trail = root .. ':leases', root .. ':inflight', root .. ':audit'
local host, model = root .. ':host', root .. ':model:' .. want.model

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 16)) do
  local record = end_lease(root, expired)
  if record then audit(trail, now, 'lease_expired', 'key', record.key, 'not settled in time', 0, record.by) end
end

local host_until, host_reason, probes_host = breaker(host, lease_id, now)
local model_until, model_reason, probes_model = breaker(model, lease_id, now)
local shared_ms, shared_reason = later(host_until, host_reason, model_until, model_reason)
local interactive_waits = bulk and now - (tonumber(redis.call('HGET', model, 'waits_ms')) or 0) < WAITS_MS

local best, shortest, busy_ms, disabled, unfit, largest_limit, redeemed, own
local remap, scopes, accounts_rest = {'remap'}, {}, resting_accounts(root, accounts)
-- A few keys, the next ones each time, are enough where one of them may be called at once: the best of three is nearly as
-- good as the best of all. Who brings a ticket redeems it at its account, and bulk knows all lines.
local first, enough = 0, #ids
if #ids > A_FEW and not bulk and (ticket.kind == '' or ticket.kind == '-') then
  first, enough = tonumber(redis.call('HGET', inflight, 'seq') or 0) % #ids, A_FEW
end
for looked = 1, #ids do
  if looked > enough and best and best.now and best.start_ms <= now then break end
  local index = (first + looked - 1) % #ids + 1
  local id, account = ids[index], accounts[index]
  local key_name = root .. ':key:' .. id
  local key = redis.call('HMGET', key_name, 'account', 'state', 'until_ms', 'reason', 'seq', 't:' .. want.topic)
  if key[1] and key[1] ~= account then
    remap[#remap + 1], remap[#remap + 2] = id, key[1]
  else
    local scope = scopes[account]
    if not scope then
      scope = read_scope(accounts_rest and root .. ':account:' .. account,
        root .. ':account_model:' .. account .. ':' .. want.model, job, ticket.account == account or #ids == 1,
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

if #remap > 1 then return cjson.encode(remap) end
if redeemed then save_buckets(redeemed.pair_key, redeemed.buckets) end
-- Asking a busy account again soon beats a long line at another.
if busy_ms and not (best and best.now) then
  if not bulk then redis.call('HSET', model, 'waits_ms', now) redis.call('PEXPIRE', model, STATE_TTL_MS) end
  return cjson.encode({'busy', busy_ms + redis.call('HINCRBY', inflight, 'turn', 7) % 60, 'limits are not known yet'})
end
if not best and largest_limit and not disabled and not unfit then return cjson.encode({'too_large', largest_limit}) end
if not best and unfit and not disabled then return cjson.encode({'unfit', unfit}) end
if not best then return cjson.encode({'disabled', disabled or 'no key'}) end
open_buckets(best.scope, now)
if not best.now then
  local large = own and has_claim(own.scope, job) and own or best
  local claimed_ms = claim(large, job, now)
  if claimed_ms then
    return cjson.encode({'deferred', claimed_ms - now, large.reason,
      'c' .. string.format('%.0f', claimed_ms) .. ' ' .. large.account})
  end
  -- By the shortest line, not by who opens first: a job that may pass the lines now joins one if it is deferred.
  open_buckets(shortest.scope, now)
  local reason = shortest.reason ~= '' and shortest.reason or 'earlier jobs come first'
  local come_ms, its_ticket = queue_up(inflight, shortest, job, now)
  return cjson.encode({'deferred', come_ms - now, reason, its_ticket})
end

if own and own.scope ~= best.scope and unclaim(own.scope, job, now) then
  save_buckets(own.scope.pair_key, own.scope.buckets)
end
unclaim(best.scope, job, now)
take(best, job, now)
-- Not its account: only a learned one is kept there, or a configured one could never take its place.
local seq = redis.call('HINCRBY', inflight, 'seq', 1)
redis.call('HSET', best.key_name, 'used_ms', best.start_ms, 'seq', seq)
if seq % 64 == 1 then redis.call('PEXPIRE', inflight, STATE_TTL_MS) end
redis.call('HINCRBY', inflight, 'key:' .. best.id, 1)
redis.call('ZADD', leases, best.start_ms + want.lease_ms, lease_id)
redis.call('HSET', root .. ':leased', lease_id,
  cmsgpack.pack({key = best.id, cost = cost, start_ms = best.start_ms, by = by, left = best.left}))
if probes_host then try_alone(host, lease_id, now) end
if probes_model then try_alone(model, lease_id, now) end
return cjson.encode({'lease', best.index, best.start_ms - now, spare_emails(best.scope.buckets, now)})
