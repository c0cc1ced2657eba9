-- records: the fields of the records in Redis, the clock, and how a request is written.
--
-- A request's record is a hash: since_ms, account, key (idempotency key), body, members (JSON, a batch only), busy_ms
-- (until when a job is sending it), holder (that job's message in the broker, or ''), alone (the call that claimed it,
-- while no other call was made with it).
-- The record of a single email is its request's record with `content` added. An email of a batch has {content, batch}
-- until the batch is answered. An accepted email has {content, result}.

local function clock(given_ms)
  if given_ms ~= '' then return tonumber(given_ms) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Writes a request, and a reference to it in the record of each email of a batch (KEYS from 2 on). The record of a
-- single email is KEYS 1. values: the content of each email, from index `first` on.
local function write_request(now, ttl_ms, account, key, body, members, values, first)
  redis.call('HSET', KEYS[1], 'since_ms', now, 'account', account, 'key', key, 'body', body)
  if #KEYS == 1 then redis.call('HSET', KEYS[1], 'content', values[first])
  else redis.call('HSET', KEYS[1], 'members', members) end
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
  for i = 2, #KEYS do
    redis.call('HSET', KEYS[i], 'content', values[first + i - 2], 'batch', KEYS[1])
    redis.call('PEXPIRE', KEYS[i], ttl_ms)
  end
end
