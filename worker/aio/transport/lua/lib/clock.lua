-- clock_us(key): the server's clock in microseconds since 1970, except that it never runs backwards. `key` holds its
-- last instant and how far it is ahead of the server's clock.
-- It reads with GETEX: after a GET, the server would report the next change of `key` to this connection.
local function clock_us(key)
  local time = redis.call('TIME')
  local real_us, stored = time[1] * 1000000 + time[2], redis.call('GETEX', key)
  local last_us, skew_us = string.match(stored or '', '^(%d+) (%d+)$')
  last_us, skew_us = tonumber(last_us or 0), tonumber(skew_us or 0)
  local was_set_back = last_us - real_us - skew_us > 1000000
  if was_set_back then skew_us = last_us - real_us end
  local now_us = math.max(last_us, real_us + skew_us)
  if was_set_back or now_us - last_us > 250000 then
    redis.call('SET', key, string.format('%.0f %.0f', now_us, skew_us))
  end
  return now_us
end
