-- requires: nothing
-- count_parked: counts the messages of lists that wait in the sublists of their tenants (see `share`).
--
-- KEYS  the lists
-- Returns their number.

local count = 0
for _, list in ipairs(KEYS) do
  for _, id in ipairs(redis.call('ZRANGE', list .. '.tenants', 0, -1)) do
    count = count + redis.call('LLEN', list .. '.tenant.' .. id)
  end
end
return count
