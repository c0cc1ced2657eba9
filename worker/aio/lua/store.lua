-- requires: nothing
-- store: stores and publishes each value whose key is not set.
-- Nearly every result is the first one of its key, so one round trip stores many results. Celery's backend needs two
-- round trips for each result, with a gap between them.
--
-- KEYS  the keys
-- ARGV  for each key its new value, and the value's expiry in seconds, 0 for never
-- Returns, for each key that was not written, two items: its number, from 0, and its present value or the error.

local replies = {}
for number, key in ipairs(KEYS) do
  local value, expires_s = ARGV[2 * number - 1], tonumber(ARGV[2 * number])
  local written = expires_s > 0 and redis.pcall('SET', key, value, 'NX', 'EX', expires_s)
  if expires_s == 0 then written = redis.pcall('SET', key, value, 'NX') end
  local stored
  if not written then stored = redis.pcall('GET', key)
  elseif written.err then stored = written
  else redis.pcall('PUBLISH', key, value) end
  if stored then replies[#replies + 1], replies[#replies + 2] = number - 1, stored end
end
return replies
