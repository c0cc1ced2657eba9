-- requires: nothing
-- drop_parked: deletes the messages of lists that wait in the sublists of their tenants (see `share`), for a purge.
--
-- KEYS  1 hash of unacknowledged messages  2 index  3 leases  4... lists
-- Returns their number.

local count = 0
for number = 4, #KEYS do
  local list = KEYS[number]
  for _, id in ipairs(redis.call('ZRANGE', list .. '.tenants', 0, -1)) do
    local sublist = list .. '.tenant.' .. id
    for _, ref in ipairs(redis.call('LRANGE', sublist, 0, -1)) do
      local tag = ref:match('^%d+ (.+)$')
      count = count + redis.call('HDEL', KEYS[1], tag)
      redis.call('ZREM', KEYS[2], tag)
      redis.call('ZREM', KEYS[3], tag)
    end
    redis.call('UNLINK', sublist)
  end
  redis.call('DEL', list .. '.tenants', list .. '.tenants.past', list .. '.tenants.memo')
end
return count
