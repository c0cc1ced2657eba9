-- note_alive(pulse, leases, patience_s): notes in the pulse that a worker is alive. If all workers were silent for
-- longer than `patience_s`, half a lease, the server itself was away: no worker is presumed dead for `patience_s` more.
-- If the server's clock was set back, leases that end later than a new lease could are set back with it.
-- Returns now and the end of that grace period, in seconds since 1970 by the server's clock.
local function note_alive(pulse, leases, patience_s)
  local clock = redis.call('TIME')
  local now_s = clock[1] + clock[2] / 1e6
  local stored = redis.call('HMGET', pulse, 'heard', 'hold_until')
  local back_s, hold_until_s = tonumber(stored[1] or now_s) - now_s, tonumber(stored[2] or 0)
  if -back_s > patience_s then hold_until_s = math.max(hold_until_s, now_s + patience_s) end
  if back_s > 1 then
    local after = string.format('(%.3f', now_s + math.max(2 * patience_s, back_s - 2 * patience_s))
    local late = redis.call('ZRANGEBYSCORE', leases, after, '+inf', 'WITHSCORES')
    for at = 1, #late, 2 do
      redis.call('ZADD', leases, string.format('%.3f', late[at + 1] - back_s), late[at])
    end
    hold_until_s = math.min(hold_until_s, now_s + patience_s)
  end
  redis.call('HSET', pulse, 'heard', string.format('%.3f', now_s), 'hold_until', string.format('%.3f', hold_until_s))
  return now_s, hold_until_s
end
