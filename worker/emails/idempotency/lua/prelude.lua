-- Stands before every script. An envelope's record is a hash: since_ms, account, key, body, members (JSON, a batch only),
-- busy_ms (until when somebody is sending it), alone (who sealed it, while nobody else has tried it since).
-- An email's record is its envelope's with `content`; or {content, batch}, or {content, result} once it was accepted.

local function clock(given_ms)
  if given_ms ~= '' then return tonumber(given_ms) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Writes an envelope and ties its emails to it: a batch's are KEYS 2 and on, a single email is KEYS 1 itself.
-- contents: the content of each email, from `first` in `values`.
local function write(now, ttl_ms, account, key, body, members, values, first)
  redis.call('HSET', KEYS[1], 'since_ms', now, 'account', account, 'key', key, 'body', body)
  if #KEYS == 1 then redis.call('HSET', KEYS[1], 'content', values[first])
  else redis.call('HSET', KEYS[1], 'members', members) end
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
  for place = 2, #KEYS do
    redis.call('HSET', KEYS[place], 'content', values[first + place - 2], 'batch', KEYS[1])
    redis.call('PEXPIRE', KEYS[place], ttl_ms)
  end
end
