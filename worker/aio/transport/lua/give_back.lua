-- requires: set_aside
-- give_back: puts messages back so that they are taken next, except those that another worker has put back already.
--
-- KEYS  1 hash of unacknowledged messages  2 index  3 leases  4 list of unreadable items  5... the queues' lists
-- ARGV  1 only messages whose leases ended by this instant, or ''
--       then for each message, the one to be taken last first: its tag, its text, the number of lists that it goes
--       to, and for each list its number in KEYS
-- Returns how many messages were put back.

local before, at, count = ARGV[1] ~= '' and ARGV[1], 2, 0
while at <= #ARGV do
  local tag, text, lists = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local is_due = true
  if before then
    local lease = redis.call('ZSCORE', KEYS[3], tag)
    is_due = lease and tonumber(lease) <= tonumber(before)
  end
  if is_due and redis.call('HEXISTS', KEYS[1], tag) == 1 then
    for list = 1, lists do
      local number = tonumber(ARGV[at + 2 + list])
      if number == 4 then set_aside(KEYS[number], text) else redis.call('RPUSH', KEYS[number], text) end
    end
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('ZREM', KEYS[3], tag)
    count = count + 1
  end
  at = at + 3 + lists
end
return count
