-- Required by every verb: reads the clock, and removes dead letters.
--
-- KEYS of every verb: 1 index (sorted set: id -> when, ms)  2 heads (hash: id -> "service|kind" newline JSON)
--   3 messages (hash: id -> JSON)  4 kept (sorted set: ids of the dead letters with a message -> when, ms)
--   5 counts (hash: "service|kind" -> dead letters, "bytes" -> size of all messages)  6 audit (stream)

local function clock(given_ms)
  if given_ms ~= '' then return tonumber(given_ms) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function drop_message(id)
  local size = redis.call('HSTRLEN', KEYS[3], id)
  if size > 0 then
    redis.call('HINCRBY', KEYS[5], 'bytes', -size)
    redis.call('HDEL', KEYS[3], id)
  end
  redis.call('ZREM', KEYS[4], id)
end

local function remove(id)
  local head = redis.call('HGET', KEYS[2], id)
  if head then redis.call('HINCRBY', KEYS[5], head:match('^[^\n]*'), -1) end
  drop_message(id)
  redis.call('HDEL', KEYS[2], id)
  return redis.call('ZREM', KEYS[1], id)  -- also without a head: else the id would stay for ever
end

-- The most dead letters that one call trims, so as not to block the server for long; the next call trims the rest.
local MAX_TRIMMED = 500

local function trim(now, max_count, keep_ms, max_bytes)
  local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - keep_ms, 'LIMIT', 0, MAX_TRIMMED)
  for _, id in ipairs(expired) do remove(id) end
  local over = math.min(redis.call('ZCARD', KEYS[1]) - max_count, MAX_TRIMMED)
  if over > 0 then
    for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, over - 1)) do remove(id) end
  end
  for _ = 1, MAX_TRIMMED do
    if tonumber(redis.call('HGET', KEYS[5], 'bytes') or 0) <= max_bytes then break end
    local oldest = redis.call('ZRANGE', KEYS[4], 0, 0)[1]
    if not oldest then break end
    drop_message(oldest)
  end
end
