-- note_alive(pulse, patience_s): notes in the pulse that a worker is alive. After a silence of all workers longer than
-- `patience_s`, the server itself was away, and no worker is presumed dead for as long again.
-- Returns now and the end of that grace period, in seconds since 1970 by the server's clock.
local function note_alive(pulse, patience_s)
  local clock = redis.call('TIME')
  local now_s = clock[1] + clock[2] / 1e6
  local stored = redis.call('HMGET', pulse, 'heard', 'hold_until')
  local hold_until_s = tonumber(stored[2] or 0)
  if stored[1] and now_s - tonumber(stored[1]) > patience_s then
    hold_until_s = math.max(hold_until_s, now_s + patience_s)
  end
  redis.call('HSET', pulse, 'heard', string.format('%.3f', now_s), 'hold_until', string.format('%.3f', hold_until_s))
  return now_s, hold_until_s
end
