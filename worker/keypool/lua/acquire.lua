-- acquire: reserve one call with one key, now or within the wait allowed; or say when to come back.
--
-- KEYS  1 leases (zset)  2 leased (hash)  3 inflight (hash)  4 audit (stream)  5 host  6 model
--       then for each candidate: its key record, account record, account × model record
-- ARGV  1 now_ms or ''   2 lease id       3 model or ''      4 tokens          5 emails (recipients)
--       6 longest wait ms  7 lease ms     8 ticket: the account that promised this job its instant, '-' none did, '' new
--       9 by (task id)   10 topic (model or from-domain)     11 calls on their way while limits are unknown
--       12 line: interactive | bulk
--       then for each candidate: key id, account
-- Returns {'lease', index, wait_ms, spare emails (-1: no quota is known)} · {'deferred', wait_ms, reason, account}
--         {'busy', wait_ms, reason} · {'disabled', reason} · {'unfit', reason} · {'too_large', limit}
--         {'remap', id, account, …}

local now = clock(ARGV[1])
local lease_id, model, topic, by, bulk = ARGV[2], ARGV[3], ARGV[10], ARGV[9], ARGV[12] == 'bulk'
local cost = {requests = 1, tokens = tonumber(ARGV[4]), emails = tonumber(ARGV[5])}
local job = {cost = cost, max_wait = tonumber(ARGV[6]), ticket = ARGV[8], by = by, bulk = bulk,
  line = bulk and BULK or INTERACTIVE}
local ticket, opening = ARGV[8], tonumber(ARGV[11])

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 16)) do
  local record = end_lease(KEYS[1], KEYS[2], KEYS[3], expired)
  if record then audit(KEYS[4], now, 'lease_expired', 'key', record.key, 'not settled in time', 0, record.by) end
end

local host_until, host_reason, probes_host = breaker(KEYS[5], now)
local model_until, model_reason, probes_model = breaker(KEYS[6], now)
local shared_ms, shared_reason = later(host_until, host_reason, model_until, model_reason)
local interactive_waits = bulk and now - (tonumber(redis.call('HGET', KEYS[6], 'waits_ms')) or 0) < WAITS_MS

local best, shortest, busy_ms, disabled, unfit, largest_limit, redeemed, own
local remap, scopes = {'remap'}, {}
for index = 1, (#ARGV - 12) / 2 do
  local id, account, place = ARGV[11 + 2 * index], ARGV[12 + 2 * index], 4 + 3 * index
  local key = redis.call('HMGET', KEYS[place], 'account', 'state', 'until_ms', 'reason', 'seq', 't:' .. topic)
  if key[1] and key[1] ~= account then
    remap[#remap + 1], remap[#remap + 2] = id, key[1]
  else
    if not scopes[account] then
      scopes[account] = read_scope(KEYS[place + 1], KEYS[place + 2], opening, shared_ms, shared_reason, now)
      if ticket == account then redeemed = redeem(scopes[account], job) and scopes[account] end
    end
    local scope = scopes[account]
    local topic_ms, topic_reason = blocked_topic(key[6], now)
    local until_ms, reason = blocked(key[2], key[3], key[4], now)
    until_ms, reason = later(until_ms, reason, scope.until_ms, scope.reason)
    local open = weigh(scope, job, now, later(topic_ms, topic_reason, until_ms, reason))
    open.index, open.place, open.scope, open.account, open.id = index, place, scope, account, id
    open.seq = tonumber(key[5]) or 0
    if account == ticket and not open.disabled then own = open end
    if open.too_large then
      largest_limit = math.max(largest_limit or 0, open.too_large)
    elseif open.disabled then
      if topic_ms < 0 then unfit = open.reason else disabled = open.reason end
    elseif not open.paced and open.now and (interactive_waits or flight_wait_ms(scope, now) > 0) then
      busy_ms = math.min(busy_ms or FLIGHT_MS, flight_wait_ms(scope, now))
    else
      if better(open, best) then best = open end
      if not shortest or open.queue_ms < shortest.queue_ms then shortest = open end
    end
  end
end

if #remap > 1 then return remap end
if redeemed then save_scope(redeemed) end
-- Asking a busy account again soon beats a long line at another.
if busy_ms and not (best and best.now) then
  if not bulk then redis.call('HSET', KEYS[6], 'waits_ms', now) redis.call('PEXPIRE', KEYS[6], STATE_TTL_MS) end
  return {'busy', busy_ms + redis.call('HINCRBY', KEYS[3], 'turn', 7) % 60, 'limits are not known yet'}
end
if not best and largest_limit then return {'too_large', largest_limit} end
if not best and unfit and not disabled then return {'unfit', unfit} end
if not best then return {'disabled', disabled or 'no key'} end
if not best.now then
  local large = own and has_claim(own.scope, job) and own or best
  local claimed_ms = claim(large, job, now)
  if claimed_ms then return {'deferred', claimed_ms - now, large.reason, large.account} end
  -- By the shortest line, not by who opens first: a job that may pass the lines now joins one if it is deferred.
  local reason = shortest.reason ~= '' and shortest.reason or 'earlier jobs come first'
  return {'deferred', queue_up(KEYS[3], shortest, job) - now, reason, shortest.account}
end

if own and own.scope ~= best.scope and unclaim(own.scope, job, now) then save_scope(own.scope) end
unclaim(best.scope, job, now)
charge_all(KEYS[best.place + 2], best.scope.buckets, cost, best.start_ms, now)
if not best.paced then take_off(best.scope, best.start_ms) end
-- Not its account: only a learned one is kept there, or a configured one could never take its place.
local seq = redis.call('HINCRBY', KEYS[3], 'seq', 1)
redis.call('HSET', KEYS[best.place], 'used_ms', best.start_ms, 'seq', seq)
if seq % 64 == 1 then redis.call('PEXPIRE', KEYS[3], STATE_TTL_MS) end
redis.call('HINCRBY', KEYS[3], 'key:' .. best.id, 1)
local expires_ms = best.start_ms + tonumber(ARGV[7])
redis.call('ZADD', KEYS[1], expires_ms, lease_id)
redis.call('HSET', KEYS[2], lease_id, cmsgpack.pack({key = best.id, cost = cost, start_ms = best.start_ms, by = by}))
if probes_host then redis.call('HSET', KEYS[5], 'probe_ms', now + PROBE_MS) end
if probes_model then redis.call('HSET', KEYS[6], 'probe_ms', now + PROBE_MS) end
return {'lease', best.index, best.start_ms - now, spare_emails(best.scope.buckets, now)}
